import subprocess
import sys

import tornado_celery_bridge

PUBLIC = """
AsyncResult BlobLost Bridge BridgeClosed BridgeConfig BridgeError BrokerUnavailable DispatchError DispatchSaturated
DispatchUncertain GroupResult Item Progress ResultBackendUnavailable ResultError ResultTimeout StoreUnavailable Stored
TaskError TaskFailed TaskRevoked TaskState TaskSwitchedOff WaitersSaturated WouldBlock __version__
""".split()


def test_all_is_exactly_this() -> None:
    assert sorted(tornado_celery_bridge.__all__) == sorted(PUBLIC)


def test_every_public_name_is_documented() -> None:
    for name in PUBLIC:
        thing = getattr(tornado_celery_bridge, name)
        if name != "__version__":
            assert ".. versionadded::" in (thing.__doc__ or ""), name
            for attribute, member in () if name.endswith("Result") else vars(thing).items():
                if callable(member) and not attribute.startswith("_"):
                    assert member.__doc__, (name, attribute)


def test_workers_do_not_load_tornado() -> None:
    code = "import tornado_celery_bridge.progress, sys; sys.exit('tornado' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
