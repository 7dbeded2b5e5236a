"""
A private ActiveMQ: ``python -m tornado_celery_bridge.up.brokers activemq``.

Debian's package, as whoever runs it, on loopback: one Java process, with everything that it writes in its folder. What
a transport over STOMP profits from is on: priorities in queues, and the scheduler for delayed messages. A stock
configuration has neither; docs/brokers/activemq.md says what is then different.
"""

import shutil
from pathlib import Path
from urllib.parse import quote
from xml.sax.saxutils import quoteattr

from tornado_celery_bridge.up.brokers.apt import ensure
from tornado_celery_bridge.up.brokers.private import Private

__all__ = ("ActiveMQ",)

JAR = Path("/usr/share/java/activemq-run.jar")

#: A server for trying out must not take the machine: it stays below 150 MB.
JAVA = "-Xms64m -Xmx192m -XX:+UseSerialGC -XX:TieredStopAtLevel=1".split()

CONFIG = """\
<beans xmlns="http://www.springframework.org/schema/beans" xmlns:xsi="http://www.w3.org/2001/XMLSchema-instance"
    xsi:schemaLocation="http://www.springframework.org/schema/beans
      http://www.springframework.org/schema/beans/spring-beans-2.0.xsd
      http://activemq.apache.org/schema/core http://activemq.apache.org/schema/core/activemq-core.xsd">
  <broker xmlns="http://activemq.apache.org/schema/core" brokerName="private" useJmx="false" useShutdownHook="true"
      dataDirectory={data} schedulerSupport={on} advisorySupport="false" schedulePeriodForDestinationPurge="60000">
    <destinationPolicy><policyMap><policyEntries>
      <policyEntry queue=">" prioritizedMessages={on} gcInactiveDestinations="true"
          inactiveTimeoutBeforeGC="600000" />
    </policyEntries></policyMap></destinationPolicy>
    <persistenceAdapter><kahaDB directory={kahadb} journalMaxFileLength="8mb" /></persistenceAdapter>
    <systemUsage><systemUsage sendFailIfNoSpaceAfterTimeout="1000">
      <memoryUsage><memoryUsage limit="96 mb" /></memoryUsage>
      <storeUsage><storeUsage limit="1 gb" /></storeUsage>
      <tempUsage><tempUsage limit="256 mb" /></tempUsage>
      <jobSchedulerUsage><jobSchedulerUsage limit="256 mb" /></jobSchedulerUsage>
    </systemUsage></systemUsage>
    <plugins>{login}</plugins>
    <transportConnectors><transportConnector name="stomp" uri={uri} /></transportConnectors>
  </broker>
</beans>
"""
LOG = """\
log4j.rootLogger=INFO, console
log4j.appender.console=org.apache.log4j.ConsoleAppender
log4j.appender.console.layout=org.apache.log4j.PatternLayout
log4j.appender.console.layout.ConversionPattern=%d %-5p %m (%c{1})%n
"""


class ActiveMQ(Private):
    """
    A broker that keeps its data in *folder*, to be killed, frozen and started again.

    Args:
        folder: All of its files are there.
        port: Where it speaks STOMP on 127.0.0.1; a free one, if there is none.
        login: A user and a password that it then asks for.
        keystore: A PKCS #12 file with a certificate and its key, and its password; then it speaks TLS.
        stock: Leave priorities and delays as they are in a configuration that nobody touched: off.
    """

    name, title = "activemq", "ActiveMQ"
    patience = 60.0  # it takes 1 s on an idle machine

    def __init__(
        self,
        folder: Path,
        port: int | None = None,
        *,
        login: tuple[str, str] | None = None,
        keystore: tuple[Path, str] | None = None,
        stock: bool = False,
    ) -> None:
        super().__init__(folder, port)
        self._login, self._keystore, self._stock = login, keystore, stock

    @staticmethod
    def available() -> bool:
        """Return whether the server and a Java are installed, or now are; see :func:`ensure`."""
        return bool(JAR.exists() and shutil.which("java")) or ensure("activemq", "openjdk-17-jre-headless")

    @property
    def url(self) -> str:
        """Where it is, for Celery."""
        scheme = "activemq+ssl" if self._keystore else "activemq"
        login = "{}:{}@".format(*(quote(part, safe="") for part in self._login)) if self._login else ""
        return f"{scheme}://{login}127.0.0.1:{self.port}/"

    def _prepare(self) -> None:
        (self.folder / "tmp").mkdir(exist_ok=True)
        configuration = self.folder / "activemq.xml"
        configuration.touch(mode=0o600)
        configuration.write_text(self._configuration())
        (self.folder / "log4j.properties").write_text(LOG)

    def _command(self) -> list[str]:
        folder = self.folder
        properties = {
            "java.io.tmpdir": folder / "tmp",
            "activemq.home": "/usr/share/activemq",
            "activemq.base": folder,
            "activemq.conf": folder,
            "activemq.data": folder / "data",
            "log4j.configuration": (folder / "log4j.properties").as_uri(),
        }
        if self._keystore:
            properties |= {"javax.net.ssl.keyStore": self._keystore[0], "javax.net.ssl.keyStoreType": "PKCS12"}
            properties["javax.net.ssl.keyStorePassword"] = self._keystore[1]
        given = [f"-D{name}={value}" for name, value in properties.items()]
        return ["java", *JAVA, *given, "-jar", str(JAR), "start", f"xbean:file:{folder / 'activemq.xml'}"]

    def _configuration(self) -> str:
        on = "false" if self._stock else "true"
        scheme = "stomp+ssl" if self._keystore else "stomp"
        login = ""
        if self._login:
            user, password = map(quoteattr, self._login)
            login = (
                "<simpleAuthenticationPlugin><users><authenticationUser"
                f' username={user} password={password} groups="users" /></users></simpleAuthenticationPlugin>'
            )
        return CONFIG.format(
            data=quoteattr(str(self.folder / "data")),
            kahadb=quoteattr(str(self.folder / "data" / "kahadb")),
            on=quoteattr(on),
            login=login,
            uri=quoteattr(f"{scheme}://127.0.0.1:{self.port}"),
        )
