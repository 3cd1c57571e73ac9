"""Values and options: MessagePack both ways, rows, parameters, adapters and converters."""
