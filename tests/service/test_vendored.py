"""What is not ours is as it came: its hash is the one in the list, and everything is on the list."""

import hashlib
import re

from tornado_celery_bridge.service.pages.files import PAGES

VENDOR = PAGES / "vendor"


def test_every_file_is_listed_with_its_hash() -> None:
    text = (VENDOR / "README.md").read_text("utf-8")
    rows = [line for line in text.splitlines() if re.match(r"\| `", line)]
    listed = {name for row in rows for name in re.findall(r"`([\w.-]+\.(?:mjs|js|css|txt))`", row)}
    ours = (
        {"README.md"}
        | {path.name for path in VENDOR.glob("LICENSE.*")}
        | {path.name for path in VENDOR.glob("NOTICE.*")}
    )
    assert {path.name for path in VENDOR.iterdir()} - ours == listed
    hashes = {hashlib.sha256((VENDOR / name).read_bytes()).hexdigest(): name for name in listed}
    changed = {name for digest, name in hashes.items() if digest not in text}
    assert changed == {"hooks.mjs", "swagger-ui-bundle.js.LICENSE.txt"}  # one line of it is ours; a licence
