c = get_config()  # noqa: F821

c.JupyterHub.homes_class = "quota_homes.QuotaHomes"
c.JupyterHub.homes_dir = "/srv/homes"
c.QuotaHomes.require_mount = True  # no server starts while the disk is missing
