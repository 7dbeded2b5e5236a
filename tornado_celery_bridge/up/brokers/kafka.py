"""
A private Apache Kafka: ``python -m tornado_celery_bridge.up.brokers kafka``.

It runs one node on loopback, which is its own controller (KRaft), as the current user: one Java process, which writes
only to its folder. Its program is that of ``KAFKA_HOME``. Without one, Maven fetches it once into a cache folder.
"""

import base64
import os
import re
import shutil
import subprocess
import sys
import uuid
from collections.abc import Mapping
from pathlib import Path

from tornado_celery_bridge.up.brokers.apt import ensure
from tornado_celery_bridge.up.brokers.maven import jars
from tornado_celery_bridge.up.brokers.private import Private, free_port
from tornado_celery_bridge.up.brokers.tansu import Tansu

#: What is fetched; and the Java that it needs.
VERSION, JAVA_VERSION = "4.2.0", 17
LIBRARIES = (f"org.apache.kafka:kafka_2.13:{VERSION}", "org.apache.logging.log4j:log4j-slf4j-impl:2.25.1")

#: A server for trials must not fill the machine: this one stays below 350 MB.
JAVA = "-Xms64m -Xmx256m -XX:+UseSerialGC -XX:TieredStopAtLevel=1".split()

#: One node is alone, small and quick to be used. Its topics are made by its clients, with their settings.
SETTINGS = {
    "auto.create.topics.enable": "false",
    "offsets.topic.num.partitions": "4",
    "offsets.topic.replication.factor": "1",
    "transaction.state.log.num.partitions": "1",
    "transaction.state.log.replication.factor": "1",
    "transaction.state.log.min.isr": "1",
    "share.coordinator.state.topic.num.partitions": "1",
    "share.coordinator.state.topic.replication.factor": "1",
    "share.coordinator.state.topic.min.isr": "1",
    "log.cleaner.dedupe.buffer.size": "8388608",
    # A node that was killed may come back after so long, and a first worker begins at once (Kafka: 9 s and 3 s).
    "broker.session.timeout.ms": "3000",
    "broker.heartbeat.interval.ms": "500",
    "group.initial.rebalance.delay.ms": "0",
}
LOG = """\
rootLogger.level = WARN
rootLogger.appenderRef.console.ref = console
appender.console.type = Console
appender.console.name = console
appender.console.layout.type = PatternLayout
appender.console.layout.pattern = %d %p %m (%c{1})%n
"""


class Kafka(Private):
    """
    A node that keeps its data in its folder.

    Args:
        settings: Lines of ``server.properties`` that replace its own.
    """

    name, title = "kafka", f"Apache Kafka {VERSION}"
    patience = 90.0  # it takes 3 s on two idle cores
    stand_in = Tansu

    def __init__(self, folder: Path, port: int | None = None, settings: Mapping[str, str] | None = None) -> None:
        super().__init__(folder, port)
        self.settings = dict(settings or {})
        self._controller = free_port()

    @staticmethod
    def available() -> bool:
        return bool(_has_java() and _libraries())

    @property
    def url(self) -> str:
        return f"kafka://127.0.0.1:{self.port}/"

    def properties(self) -> dict[str, str]:
        """Return what stands in its ``server.properties``."""
        return {
            "process.roles": "broker,controller",
            "node.id": "1",
            "controller.listener.names": "CONTROLLER",
            "controller.quorum.voters": f"1@127.0.0.1:{self._controller}",
            "listeners": f"PLAINTEXT://127.0.0.1:{self.port},CONTROLLER://127.0.0.1:{self._controller}",
            "log.dirs": str(self.folder / "data"),
            **SETTINGS,
            **self.settings,
        }

    def _prepare(self) -> None:
        properties, data = self.properties(), self.folder / "data"
        configuration = self.folder / "server.properties"
        configuration.touch(mode=0o600)
        configuration.write_text("".join(f"{key}={value}\n" for key, value in properties.items()))
        (self.folder / "log4j2.properties").write_text(LOG)
        if not (data / "meta.properties").exists():
            words = ["format", "--cluster-id", self._cluster_id(), "--config", str(configuration)]
            done = subprocess.run(self._with_java("kafka.tools.StorageTool", *words), capture_output=True, text=True)
            if done.returncode:
                raise RuntimeError(f"{self.title} can't use {data}: {done.stdout[-1000:]}{done.stderr[-1000:]}")

    def _cluster_id(self) -> str:
        return base64.urlsafe_b64encode(uuid.uuid4().bytes).decode().rstrip("=")

    def _command(self) -> list[str]:
        return self._with_java("kafka.Kafka", str(self.folder / "server.properties"))

    def _with_java(self, program: str, *words: str) -> list[str]:
        log = self.folder / "log4j2.properties"
        return ["java", *JAVA, f"-Dlog4j2.configurationFile={log}", "-cp", f"{_libraries()}/*", program, *words]


def _has_java() -> bool:
    """Return whether there is a Java that is new enough, or one can be installed."""
    if not shutil.which("java") and not ensure("openjdk-17-jre-headless"):
        return False
    told = subprocess.run(["java", "-version"], capture_output=True, text=True, check=False).stderr
    found = re.search(r'version "(\d+)', told)
    if found and int(found[1]) >= JAVA_VERSION:
        return True
    print(f"Apache Kafka needs Java {JAVA_VERSION} or newer; here is: {told.strip() or 'none'}", file=sys.stderr)
    return False


def _libraries() -> Path | None:
    """Return the folder of the program's jars; fetch them if need be."""
    home = os.environ.get("KAFKA_HOME")
    if not home:
        return jars(f"kafka-{VERSION}", *LIBRARIES)
    if any((Path(home) / "libs").glob("kafka_*.jar")):
        return Path(home) / "libs"
    print(f"KAFKA_HOME={home} has no libs/kafka_*.jar", file=sys.stderr)
    return None
