from datetime import datetime

c = get_config()  # noqa: F821


async def only_in_class(authenticator, request, identity):
    """Students sign in from Monday to Friday; teachers whenever they like."""
    if identity.admin or datetime.now().weekday() < 5:
        return identity
    authenticator.log.info("%s was refused: no class today", identity.name)
    return None


c.Authenticator.post_auth_hook = only_in_class
