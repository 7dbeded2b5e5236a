"""
A private ActiveMQ Artemis: ``python -m tornado_celery_bridge.up.brokers artemis``.

It runs the archive that ARTEMIS_HOME names, or that Maven fetches: one Java process, as the current user, on loopback.
It writes only to its folder. docs/brokers/activemq.md says what a broker in production needs.
"""

import os
import shutil
from pathlib import Path
from urllib.parse import quote
from xml.sax.saxutils import escape, quoteattr

from tornado_celery_bridge.up.brokers.apt import ensure
from tornado_celery_bridge.up.brokers.maven import archive
from tornado_celery_bridge.up.brokers.private import Private

VERSION = "2.40.0"
ARTIFACT = f"org.apache.activemq:apache-artemis:{VERSION}:tar.gz:bin"

#: A server for trials must not fill the machine: this one stays below 250 MB.
JAVA = "-Xms64m -Xmx256m -XX:+UseSerialGC -XX:TieredStopAtLevel=1".split()

BROKER = """\
<configuration xmlns="urn:activemq">
  <core xmlns="urn:activemq:core">
    <name>private</name>
    <persistence-enabled>true</persistence-enabled>
    <journal-type>NIO</journal-type>
    <journal-directory>{data}/journal</journal-directory>
    <bindings-directory>{data}/bindings</bindings-directory>
    <large-messages-directory>{data}/large</large-messages-directory>
    <paging-directory>{data}/paging</paging-directory>
    <journal-min-files>2</journal-min-files>
    <journal-file-size>1M</journal-file-size>
    <security-enabled>{secured}</security-enabled>
    <critical-analyzer>false</critical-analyzer>
    <max-disk-usage>-1</max-disk-usage>
    <acceptors><acceptor name="stomp">{acceptor}</acceptor></acceptors>
    <security-settings>
      <security-setting match="#">{permissions}</security-setting>
    </security-settings>
    <address-settings>
      <address-setting match="#">
        <dead-letter-address>ActiveMQ.DLQ</dead-letter-address>
        <expiry-address>ExpiryQueue</expiry-address>
        <max-delivery-attempts>-1</max-delivery-attempts>
        <redelivery-delay>0</redelivery-delay>
        <max-size-bytes>64M</max-size-bytes>
        <address-full-policy>PAGE</address-full-policy>
        <auto-create-queues>true</auto-create-queues>
        <auto-create-addresses>true</auto-create-addresses>
      </address-setting>
    </address-settings>
  </core>
</configuration>
"""
#: What a user of ours may do.
PERMISSIONS = (
    *("createNonDurableQueue", "deleteNonDurableQueue", "createDurableQueue", "deleteDurableQueue", "createAddress"),
    *("deleteAddress", "consume", "browse", "send", "manage"),
)
LOGIN = """\
private {
   org.apache.activemq.artemis.spi.core.security.jaas.PropertiesLoginModule required
      org.apache.activemq.jaas.properties.user="users.properties"
      org.apache.activemq.jaas.properties.role="roles.properties";
};
"""
LOG = """\
rootLogger.level = INFO
rootLogger.appenderRef.console.ref = console
logger.audit.name = org.apache.activemq.audit
logger.audit.level = OFF
appender.console.type = Console
appender.console.name = console
appender.console.layout.type = PatternLayout
appender.console.layout.pattern = %d %-5level %msg (%c{1})%n
"""


class Artemis(Private):
    """
    A broker that keeps its data in its folder.

    Args:
        login: A user and a password, which clients must then give.
        permissions: What the user may do.
        options: Its acceptor's, which say by a destination's prefix what it is. An acceptor as ``artemis create`` makes
            it has none.
    """

    #: As the documentation advises for STOMP.
    PREFIXES = "anycastPrefix=/queue/;multicastPrefix=/topic/"

    name, title = "artemis", "ActiveMQ Artemis"
    patience = 90.0  # it takes 3 s on an idle machine

    def __init__(
        self,
        folder: Path,
        port: int | None = None,
        *,
        login: tuple[str, str] | None = None,
        permissions: tuple[str, ...] = PERMISSIONS,
        options: str = PREFIXES,
    ) -> None:
        super().__init__(folder, port)
        self._login, self._permissions, self._options = login, permissions, options

    @staticmethod
    def available() -> bool:
        return bool(shutil.which("java") or ensure("openjdk-17-jre-headless")) and _home() is not None

    @property
    def url(self) -> str:
        login = "{}:{}@".format(*(quote(part, safe="") for part in self._login)) if self._login else ""
        return f"activemq://{login}127.0.0.1:{self.port}/"

    def _prepare(self) -> None:
        settings = self.folder / "etc"
        settings.mkdir(exist_ok=True)
        (self.folder / "tmp").mkdir(exist_ok=True)
        user, password = self._login or ("nobody", "")
        self._write(settings / "broker.xml", self._configuration())
        self._write(settings / "users.properties", f"{user} = {password}\n")
        self._write(settings / "roles.properties", f"users = {user}\n")
        self._write(settings / "login.config", LOGIN)
        self._write(settings / "log4j2.properties", LOG)
        self._write(settings / "management.xml", '<management-context xmlns="http://activemq.apache.org/schema"/>')
        self._write(
            settings / "bootstrap.xml",
            '<broker xmlns="http://activemq.apache.org/schema">'
            '<jaas-security domain="private"/>'
            f"<server configuration={quoteattr((settings / 'broker.xml').as_uri())}/></broker>",
        )

    @staticmethod
    def _write(path: Path, text: str) -> None:
        path.touch(mode=0o600)
        path.write_text(text)

    def _configuration(self) -> str:
        acceptor = f"tcp://127.0.0.1:{self.port}?protocols=STOMP;{self._options}"
        return BROKER.format(
            data=escape(str(self.folder / "data")),
            secured="true" if self._login else "false",
            acceptor=escape(acceptor),
            permissions="".join(f'<permission type="{name}" roles="users"/>' for name in self._permissions),
        )

    def _command(self) -> list[str]:
        folder, home = self.folder, _home()
        properties = {
            "java.io.tmpdir": folder / "tmp",
            "java.security.auth.login.config": folder / "etc" / "login.config",
            "log4j2.configurationFile": (folder / "etc" / "log4j2.properties").as_uri(),
            "artemis.home": home,
            "artemis.instance": folder,
            "artemis.instance.etc": folder / "etc",
            "data.dir": folder / "data",
        }
        given = [f"-D{name}={value}" for name, value in properties.items()]
        boot = f"{home}/lib/artemis-boot.jar"
        return ["java", *JAVA, *given, "-classpath", boot, "org.apache.activemq.artemis.boot.Artemis", "run"]


def _home() -> Path | None:
    if named := os.environ.get("ARTEMIS_HOME"):
        return Path(named)
    return archive(f"artemis-{VERSION}", ARTIFACT)
