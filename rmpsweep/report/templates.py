"""What every page is made from: the templates in ``page/``, and the drawing library that goes into them."""

import contextlib
import functools
import hashlib
from importlib.metadata import version
from typing import TYPE_CHECKING

from rmpsweep.data.cache import cache_dir
from rmpsweep.report.formats import FILTERS

if TYPE_CHECKING:
    from jinja2 import Environment


@functools.cache
def environment() -> "Environment":
    """The environment of the templates in ``page/``, with the filters of `formats`. An undefined name is an error.

    It keeps the compiled templates. The filter class_name, here `str`, is for each page to replace.
    """
    from jinja2 import Environment, PackageLoader, StrictUndefined

    made = Environment(
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=StrictUndefined,
        loader=PackageLoader(__package__, "page"),
    )
    made.filters |= {**FILTERS, "class_name": str}
    return made


@functools.cache
def library() -> str:
    """The JavaScript of Vega, Vega-Lite and Vega-Embed.

    vl-convert takes two seconds and 150 MB to put it together, so it is kept in the cache, in a file for each version
    of vl-convert, below its SHA-256. A file that does not have the SHA-256 it states, such as one half written, is made
    again. Where the cache cannot be written, the script is put together every time.
    """
    file = cache_dir() / f"vega-{version('vl-convert-python')}.js"
    with contextlib.suppress(OSError):
        stated, _, kept = file.read_bytes().partition(b"\n")
        if kept and stated == _stamp(kept):
            return kept.decode()
    import vl_convert

    made = str(vl_convert.javascript_bundle())  # type: ignore[call-arg]  # its stub lacks the default
    with contextlib.suppress(OSError):
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(_stamp(made.encode()) + b"\n" + made.encode())
    return made


def _stamp(script: bytes) -> bytes:
    return f"// SHA-256 of what follows: {hashlib.sha256(script).hexdigest()}".encode()
