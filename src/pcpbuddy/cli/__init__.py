"""
The command line: ``pcpbuddy COMMAND``, one module a command.
"""
