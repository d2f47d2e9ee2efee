"""What every page is made from: the templates in ``page/``, and the drawing library that goes into them."""

import functools
from typing import TYPE_CHECKING

from rmpsweep.report.formats import FILTERS

if TYPE_CHECKING:
    from jinja2 import Environment


def environment() -> "Environment":
    """The environment of the templates in ``page/``, with the filters of `formats`. An undefined name is an error."""
    from jinja2 import Environment, PackageLoader, StrictUndefined

    made = Environment(
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=StrictUndefined,
        loader=PackageLoader(__package__, "page"),
    )
    made.filters |= FILTERS
    return made


@functools.cache
def library() -> str:
    """The JavaScript of Vega, Vega-Lite and Vega-Embed."""
    import vl_convert

    return str(vl_convert.javascript_bundle())  # type: ignore[call-arg]  # its stub lacks the default
