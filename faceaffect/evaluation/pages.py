"""The pages that a comparison and a test of questions write: one way to fill a template."""

import jinja2


def page_template(name: str) -> jinja2.Template:
    """Return a template of this folder; what it is given is escaped, and what it lacks is an error.

    Args:
        name: the file, such as ``report.html.j2``.
    """
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("faceaffect.evaluation", "."),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template(name)
