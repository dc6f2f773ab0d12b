c = get_config()  # noqa: F821

# Users of this machine sign in with their own passwords, and their servers run as themselves.
c.JupyterHub.authenticator_class = "pam"
c.JupyterHub.spawner_class = "localprocess"
c.Authenticator.allowed_users = {"ada", "grace"}
c.Authenticator.admin_users = {"grace"}
