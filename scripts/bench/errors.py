"""What a user can change, said in one sentence."""


class UserError(Exception):
    pass
