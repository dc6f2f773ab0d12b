from html import escape

c = get_config()  # noqa: F821

SIZES = {"small": "512M", "large": "4G"}


def form(person):
    """What was typed the last time is on the page again; escaped, because it is not ours."""
    course = escape(str(person.user_options.get("course", "")), quote=True)
    return f"""
      <label for="course">Course</label>
      <input id="course" name="course" maxlength="40" value="{course}">
      <label for="size">Size</label>
      <select id="size" name="size"><option>small</option><option>large</option></select>
    """


def apply(person, options):
    """Options may also come from a program, so nothing about them is certain."""
    size = options.get("size")
    return {"mem_limit": SIZES.get(size if isinstance(size, str) else "", "512M"),
            "environment": {"COURSE": str(options.get("course", ""))[:40]}}


c.Spawner.options_form = form
c.Spawner.apply_user_options = apply
