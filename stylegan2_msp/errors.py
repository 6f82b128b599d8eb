"""The one exception that a user is meant to read."""


class UserError(Exception):
    """Something that the user can mend; its message is one line: what is wrong, where, what was found, what to do."""
