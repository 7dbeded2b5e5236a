"""What is kept on the disk is for its owner alone, in a DATA_DIR too that others may look into."""

import stat
from pathlib import Path

from tornado_celery_bridge.base.store import Store, Stored


def test_large_inputs_and_results(tmp_path: Path) -> None:
    folder = tmp_path / "data" / "blobs"
    folder.parent.mkdir(mode=0o755)
    store = Store(folder.as_uri())
    blob = Stored.new(2)
    store.write(blob.name, b"{}")
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert store.read(blob) == b"{}"
