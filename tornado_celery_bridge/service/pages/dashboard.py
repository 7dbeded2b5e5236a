"""The dashboard's files: its modules and the libraries that they use, as they are in ``static``."""

from tornado_celery_bridge.service.pages import files as docs

__all__ = ("FILES",)

_MEDIA_TYPES = {".js": "text/javascript", ".mjs": "text/javascript", ".css": "text/css", ".svg": "image/svg+xml"}

#: What the page loads, by name: where it is, and its media type.
FILES = {
    place.name: (place, _MEDIA_TYPES[place.suffix])
    for folder in (docs.PAGES / "dashboard", docs.PAGES / "vendor")
    for place in sorted(folder.iterdir())
    if place.suffix in _MEDIA_TYPES
}
