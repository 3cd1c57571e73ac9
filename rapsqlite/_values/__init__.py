"""Values and options: MessagePack in both directions, rows, parameters, adapters and converters."""
