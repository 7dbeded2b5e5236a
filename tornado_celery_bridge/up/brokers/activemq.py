"""
A private ActiveMQ: ``python -m tornado_celery_bridge.up.brokers activemq``.

It runs Debian's package on loopback, as the current user: one Java process, which writes only to its folder. Priorities
in queues and the scheduler for delayed messages are on. A stock configuration has neither; docs/brokers/activemq.md
says what is different then.
"""

import shutil
from pathlib import Path
from urllib.parse import quote
from xml.sax.saxutils import quoteattr

from tornado_celery_bridge.up.brokers.apt import ensure
from tornado_celery_bridge.up.brokers.private import Private

JAR = Path("/usr/share/java/activemq-run.jar")

#: A server for trials must not fill the machine: this one stays below 150 MB.
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
    A broker that keeps its data in its folder.

    Args:
        login: A user and a password, which clients must then give.
        keystore: A PKCS #12 file with a certificate and its key, and the file's password. The broker then speaks TLS.
        stock: Leave priorities and delays off, as in a stock configuration.
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
        return bool(JAR.exists() and shutil.which("java")) or ensure("activemq", "openjdk-17-jre-headless")

    @property
    def url(self) -> str:
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
