"""ActiveMQ 6, whose jars Maven fetches: Debian has 5."""

import shutil
from pathlib import Path

from tornado_celery_bridge.up.brokers.activemq import JAVA, ActiveMQ
from tornado_celery_bridge.up.brokers.apt import ensure
from tornado_celery_bridge.up.brokers.maven import jars

VERSION = "6.3.1"
_OURS = ("broker", "stomp", "kahadb-store", "spring", "jaas")
JARS = (
    *(f"org.apache.activemq:activemq-{name}:{VERSION}" for name in _OURS),
    "org.springframework:spring-context:6.2.12",  # reads the configuration
    "org.slf4j:slf4j-simple:2.0.17",
)

MAIN = """\
import org.apache.activemq.broker.BrokerFactory;
import org.apache.activemq.broker.BrokerService;

public class Main {
    public static void main(String[] words) throws Exception {
        BrokerService broker = BrokerFactory.createBroker(words[0]);
        broker.start();
        broker.waitUntilStopped();
    }
}
"""


class ActiveMQ6(ActiveMQ):
    """The same, with the same configuration."""

    title = f"ActiveMQ {VERSION}"

    @staticmethod
    def available() -> bool:
        return bool((shutil.which("java") or ensure("openjdk-17-jdk-headless")) and _libraries())

    def _prepare(self) -> None:
        super()._prepare()
        (self.folder / "Main.java").write_text(MAIN)

    def _command(self) -> list[str]:
        settings = [f"-Djava.io.tmpdir={self.folder / 'tmp'}", "-cp", f"{_libraries()}/*"]
        main = str(self.folder / "Main.java")
        return ["java", *JAVA, *settings, main, f"xbean:file:{self.folder / 'activemq.xml'}"]


def _libraries() -> Path | None:
    return jars(f"activemq-{VERSION}", *JARS)
