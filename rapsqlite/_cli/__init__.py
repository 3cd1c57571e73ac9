"""The command line: the shell and the doctor."""
