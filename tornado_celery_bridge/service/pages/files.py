"""
The pages that the service has for people, and what they may load.

All files are in ``static``, those of others (Swagger UI among them) in ``static/vendor``: no page needs a network.
"""

import functools
import gzip
from pathlib import Path

from tornado_celery_bridge.service.http.conditions import etag_of
from tornado_celery_bridge.service.http.handler import COMPRESSED, File

#: Nothing but what is served here may be loaded, and nothing inline may run.
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; "
    "font-src 'self'; frame-ancestors 'none'; base-uri 'none'; form-action 'none'"
)

#: The folder of the files.
PAGES = Path(__file__).parent / "static"
_VENDOR = PAGES / "vendor"

_MEDIA_TYPES = {".js": "text/javascript", ".mjs": "text/javascript", ".css": "text/css", ".svg": "image/svg+xml"}


def _files(*places: Path) -> dict[str, tuple[Path, str]]:
    known = (place for place in places if place.suffix in _MEDIA_TYPES)
    return {place.name: (place, _MEDIA_TYPES[place.suffix]) for place in known}


#: What the page of the API's docs loads, by name: where it is, and its media type.
DOCS = _files(PAGES / "docs.js", PAGES / "docs.css", _VENDOR / "swagger-ui-bundle.js", _VENDOR / "swagger-ui.css")
#: What the dashboard loads.
DASHBOARD = _files(*sorted((PAGES / "dashboard").iterdir()), *sorted(_VENDOR.iterdir()))


def make_file(content: bytes, media_type: str) -> File:
    """Return *content* with its ETag, and compressed if it is large; so not on a loop."""
    compressed = gzip.compress(content, 6, mtime=0) if len(content) >= COMPRESSED else None
    return File(content, media_type, etag_of(content), compressed)


@functools.cache
def read(place: Path, media_type: str) -> File:
    """Return a file, read from the disk once, so not on a loop."""
    return make_file(place.read_bytes(), f"{media_type}; charset=utf-8")
