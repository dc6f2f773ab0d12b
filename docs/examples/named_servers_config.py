c = get_config()  # noqa: F821

c.JupyterHub.allow_named_servers = True


def how_many(person):
    """Teachers have as many servers as they like, students two besides their own."""
    return 0 if person.admin else 2


c.JupyterHub.named_server_limit_per_user = how_many
