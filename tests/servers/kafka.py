"""Apache Kafka for the tests: with users, ACLs and a listener behind a proxy; and a cluster of three."""

import contextlib
import signal
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import NoReturn, Self

from confluent_kafka.admin import (
    AclBinding,
    AclOperation,
    AclPermissionType,
    AdminClient,
    ResourcePatternType,
    ResourceType,
    ScramCredentialInfo,
    ScramMechanism,
    UserScramCredentialUpsertion,
)

from tests.needs import impossible
from tests.servers import free_port
from tornado_celery_bridge.up.brokers.kafka import Kafka

_SECURITY = "org.apache.kafka.common.security"

#: Where librdkafka's constants are, whose stubs know them not all.
_RESOURCES = {"Topic": ResourceType.TOPIC, "Group": ResourceType.GROUP, "Cluster": ResourceType.BROKER}


def need_kafka() -> NoReturn:
    """Skip, as there is no Apache Kafka here."""
    impossible("Apache Kafka (no Java 17, or neither KAFKA_HOME nor Maven and a network): standard error says more")


class ApacheKafka(Kafka):
    """
    A node with three listeners: for whoever administers it, for its users, and for those who come through a proxy.

    Args:
        users: Names and passwords, for SASL/PLAIN. Whoever comes to :attr:`url` must be one of them; without any,
            nobody needs a name.
        acls: Whether users may only do what :meth:`allow` says.
    """

    def __init__(
        self,
        folder: Path,
        settings: Mapping[str, str] | None = None,
        *,
        users: Mapping[str, str] | None = None,
        acls: bool = False,
    ) -> None:
        super().__init__(folder, free_port(), settings)
        self.users, self.acls = dict(users or {}), acls
        self.admin_port, self._inner_port = free_port(), free_port()
        #: The port that the third listener tells to clients, and the port that it has: a proxy is to pass the first on
        #: to the second.
        self.proxied = free_port(), self._inner_port

    @property
    def url(self) -> str:
        login = next((f"{user}:{password}@" for user, password in self.users.items()), "")
        return f"kafka://{login}127.0.0.1:{self.port}/"

    def url_of(self, user: str, password: str, query: str = "") -> str:
        """Return the URL for a user."""
        return f"kafka://{user}:{password}@127.0.0.1:{self.port}/{query}"

    def properties(self) -> dict[str, str]:
        protocol = "SASL_PLAINTEXT" if self.users else "PLAINTEXT"
        ports = {
            "CONTROLLER": self._controller,
            "ADMIN": self.admin_port,
            "USERS": self.port,
            "BEHIND": self.proxied[1],
        }
        told = {**ports, "BEHIND": self.proxied[0]}
        del told["CONTROLLER"]
        protocols = {"CONTROLLER": "PLAINTEXT", "ADMIN": "PLAINTEXT", "USERS": protocol, "BEHIND": protocol}
        more = {
            "listeners": _listed(ports, "{}://127.0.0.1:{}"),
            "advertised.listeners": _listed(told, "{}://127.0.0.1:{}"),
            "listener.security.protocol.map": _listed(protocols, "{}:{}"),
            "inter.broker.listener.name": "ADMIN",
        }
        if self.users:
            known = " ".join(f'user_{user}="{password}"' for user, password in self.users.items())
            plain = f"{_SECURITY}.plain.PlainLoginModule required {known};"
            scram = f"{_SECURITY}.scram.ScramLoginModule required;"
            more["sasl.enabled.mechanisms"] = "PLAIN,SCRAM-SHA-512"
            for name in ("users", "behind"):
                more[f"listener.name.{name}.plain.sasl.jaas.config"] = plain
                more[f"listener.name.{name}.scram-sha-512.sasl.jaas.config"] = scram
        if self.acls:
            more["authorizer.class.name"] = "org.apache.kafka.metadata.authorizer.StandardAuthorizer"
            more["super.users"] = "User:ANONYMOUS"
        return {**super().properties(), **more, **self.settings}

    # What an administrator does.

    @contextlib.contextmanager
    def admin(self) -> Iterator[AdminClient]:
        with AdminClient({"bootstrap.servers": f"127.0.0.1:{self.admin_port}"}) as made:
            yield made

    def allow(self, user: str, *rules: str) -> None:
        """Let a user do things, each as in ``Topic Write second.`` (a prefix), or ``Cluster Create``."""
        bindings = []
        for rule in rules:
            kind, operation, name = [*rule.split(), "kafka-cluster"][:3]
            pattern = ResourcePatternType.LITERAL if kind == "Cluster" else ResourcePatternType.PREFIXED
            if name == "*":
                pattern = ResourcePatternType.LITERAL
            allowed = AclPermissionType.ALLOW
            bindings.append(
                AclBinding(
                    _RESOURCES[kind], name, pattern, f"User:{user}", "*", AclOperation[operation.upper()], allowed
                )
            )
        with self.admin() as admin:
            for made in admin.create_acls(bindings).values():
                made.result()

    def add_scram_user(self, user: str, password: str) -> None:
        """Make a user for SCRAM-SHA-512."""
        credential = ScramCredentialInfo(ScramMechanism.SCRAM_SHA_512, 4096)
        change = UserScramCredentialUpsertion(user, credential, password.encode())
        with self.admin() as admin:
            for made in admin.alter_user_scram_credentials([change]).values():
                made.result()


class Node(Kafka):
    """One of a cluster's nodes."""

    def __init__(self, folder: Path, number: int, cluster: "KafkaCluster") -> None:
        super().__init__(folder, free_port())
        self._number, self._cluster = number, cluster

    @property
    def runs(self) -> bool:
        return self._process is not None and self._process.poll() is None

    def end(self) -> None:
        """End it in order: it gives its partitions to the others first."""
        self._signal(signal.SIGTERM)
        self.wait()

    @property
    def voter(self) -> str:
        return f"{self._number}@127.0.0.1:{self._controller}"

    def properties(self) -> dict[str, str]:
        copies = {name: "3" for name in super().properties() if name.endswith("replication.factor")}
        voters = ",".join(node.voter for node in self._cluster.nodes)
        default = {"default.replication.factor": "3", "min.insync.replicas": "2"}
        return {
            **super().properties(),
            **{**copies, **default, "controller.quorum.voters": voters, "node.id": str(self._number)},
            "transaction.state.log.min.isr": "2",
            "share.coordinator.state.topic.min.isr": "2",
        }

    def _cluster_id(self) -> str:
        return self._cluster.name


class KafkaCluster:
    """Three nodes; each topic has a copy on each."""

    name = "AAAAAAAAAAAAAAAAAAAAAA"

    def __init__(self, folder: Path) -> None:
        self.nodes: list[Node] = []
        self.nodes += [Node(folder / str(number), number, self) for number in (1, 2, 3)]
        self.port = self.nodes[0].port

    @property
    def url(self) -> str:
        return f"kafka://{','.join(f'127.0.0.1:{node.port}' for node in self.nodes)}/?replication=3"

    def start(self) -> Self:
        """Start the nodes that do not run."""
        ended = [node for node in self.nodes if not node.runs]
        for node in ended:
            node.spawn()
        for node in ended:
            node.wait_until_ready()
        return self

    def kill(self) -> None:
        """Kill one node: each is the next one's turn."""
        self.nodes.append(self.nodes.pop(0))
        self.nodes[-1].kill()

    def restart_one(self) -> None:
        """End one node in order, and start it again: each is the next one's turn."""
        self.nodes.append(self.nodes.pop(0))
        node = self.nodes[-1]
        node.end()
        node.start()

    def freeze(self) -> None:
        for node in self.nodes:
            node.freeze()

    def thaw(self) -> None:
        for node in self.nodes:
            node.thaw()

    def stop(self) -> None:
        for node in self.nodes:
            node.stop()


def _listed(pairs: Mapping[str, object], form: str) -> str:
    return ",".join(form.format(name, value) for name, value in pairs.items())
