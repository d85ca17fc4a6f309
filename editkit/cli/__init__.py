"""The command line: ``editkit COMMAND``, one module per command."""
