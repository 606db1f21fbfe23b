"""The command line: one file a command (or group of commands), attached by name and imported only when it is called."""
