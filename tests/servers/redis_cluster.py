"""A Redis Cluster: three masters, and a replica of each."""

import contextlib
from pathlib import Path
from typing import Any, Self

from redis.crc import key_slot
from redis.exceptions import RedisError

from tests.servers import Server, free_port, wait_for

#: Milliseconds after which a master counts as lost, also to a busy machine; a replica takes its place a second later.
LOST = 3000
SLOTS = 16_384
#: That of the tag that all keys have.
SLOT = key_slot(b"{tcb}")


class Member(Server):
    """
    One of its servers.

    Args:
        told: The port that clients are told; its own if there is none.
    """

    def __init__(self, folder: Path, *, told: int = 0) -> None:
        self.bus = free_port()
        options = ("--cluster-enabled", "yes", "--cluster-port", str(self.bus), "--cluster-node-timeout", str(LOST))
        announced = ("--cluster-announce-port", str(told)) if told else ()
        super().__init__(folder, *options, *announced, "--repl-diskless-sync-delay", "0")
        self.told = told or self.port

    @property
    def runs(self) -> bool:
        return hasattr(self, "process") and self.process.poll() is None

    def ask(self, words: str, *more: object) -> Any:
        with self.client() as client:
            return client.execute_command(words, *more)

    def replication(self) -> dict[str, Any]:
        with self.client() as client:
            return dict(client.info("replication"))

    @property
    def name(self) -> str:
        found = self.ask("CLUSTER MYID")
        return found.decode() if isinstance(found, bytes) else str(found)

    @property
    def is_whole(self) -> bool:
        """Whether it says that all slots are served."""
        found = self.ask("CLUSTER INFO")
        return bool(found["cluster_state"] == "ok" and found["cluster_slots_ok"] == str(SLOTS))

    def port_of(self, slot: int) -> int:
        """Return the port that it tells clients for a slot; 0 for none."""
        told = self.ask("CLUSTER SLOTS")
        return next((int(master[1]) for first, last, master, *_ in told if first <= slot <= last), 0)


class RedisCluster:
    """
    Servers of which :attr:`master`, at first the first of them, has the keys of the tag ``{tcb}``.

    Args:
        replicas: Whether each master has one.
        proxied: Whether the first one tells clients another port, that of a proxy before it.
    """

    def __init__(self, folder: Path, *, replicas: bool = True, proxied: bool = False) -> None:
        self.folder = folder
        told = free_port() if proxied else 0
        self.servers = [Member(folder / "0", told=told)]
        self.servers += [Member(folder / str(number)) for number in range(1, 6 if replicas else 3)]
        self.port = self.servers[0].port
        if proxied:
            self.proxied = told, self.port
        self._is_made = False

    @property
    def url(self) -> str:
        return self.servers[0].url

    @property
    def named(self) -> list[str]:
        """The servers, as clients know them."""
        return [f"127.0.0.1:{port}" for server in self.servers for port in dict.fromkeys((server.port, server.told))]

    @property
    def transport_options(self) -> dict[str, Any]:
        """The transport options that say so."""
        return {"cluster": self.named, "global_keyprefix": "{tcb}."}

    @property
    def environment(self) -> dict[str, str]:
        """What a process needs to know."""
        return {"REDIS_URL": self.url, "REDIS_CLUSTER": ",".join(self.named)}

    def start(self) -> Self:
        """Start the servers that do not run; make a cluster of them, the first time."""
        for server in self.servers:
            if not server.runs:
                server.start()
        if not self._is_made:
            self._make()
        wait_for(lambda: all(server.is_whole for server in self.servers))
        return self

    def _make(self) -> None:
        masters, replicas = self.servers[:3], self.servers[3:]
        for number, server in enumerate(masters):
            shares = [(SLOT + SLOTS * each // 3) % SLOTS for each in (number, number + 1)]
            first, end = shares
            ranges = [(first, end)] if first < end else [(first, SLOTS), (0, end)]
            for start, stop in ranges:
                if start < stop:
                    server.ask("CLUSTER ADDSLOTSRANGE", start, stop - 1)
        for server in self.servers[1:]:
            server.ask("CLUSTER MEET", "127.0.0.1", self.servers[0].port, self.servers[0].bus)
        count = str(len(self.servers))
        wait_for(lambda: all(each.ask("CLUSTER INFO")["cluster_known_nodes"] == count for each in self.servers))
        for master, replica in zip(masters, replicas, strict=False):
            wait_for(lambda master=master, replica=replica: _follows(replica, master))  # type: ignore[misc]
        for each in replicas:
            wait_for(lambda each=each: each.replication().get("master_link_status") == "up")  # type: ignore[misc]
        self._is_made = True

    @property
    def master(self) -> Member:
        """
        The server that has the keys.

        Raises:
            LookupError: None has them, as those say who answer.
        """
        for server in self.servers:
            with contextlib.suppress(RedisError, OSError):
                port = server.port_of(SLOT)
                return next(each for each in self.servers if each.told == port)
        raise LookupError("no server answers")

    def is_copied(self) -> bool:
        """Return whether a replica has all that the master has: what it has not yet is gone with the master."""
        master = self.master
        offset = master.replication()["master_repl_offset"]
        others = [each.replication() for each in self.servers if each is not master]
        return any(each.get("master_port") == master.port and each["slave_repl_offset"] == offset for each in others)

    def move(self) -> Server:
        """Give the keys to another master; return it. It is Valkey 9's way, in which no key is between two servers."""
        source = self.master
        target = next(each for each in self.servers if each is not source and each.replication()["role"] == "master")
        source.ask("CLUSTER MIGRATESLOTS SLOTSRANGE", SLOT, SLOT, "NODE", target.name)
        wait_for(lambda: all(server.port_of(SLOT) == target.told for server in self.servers))
        return target

    def kill(self) -> None:
        """Kill the server that has the keys."""
        self.master.kill()

    def freeze(self) -> None:
        for server in self.servers:
            server.freeze()

    def thaw(self) -> None:
        for server in self.servers:
            server.thaw()

    def stop(self) -> None:
        for server in self.servers:
            server.stop()


def _follows(replica: Member, master: Member) -> bool:
    try:
        return bool(replica.ask("CLUSTER REPLICATE", master.name))
    except RedisError:  # it does not know the master yet
        return False
