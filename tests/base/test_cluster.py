"""Connections to a Redis Cluster: to the server that has the keys, also when that is another one."""

import asyncio
from collections.abc import Iterator

import pytest
import redis
import redis.asyncio
from celery.exceptions import ImproperlyConfigured

from tests.servers.redis_cluster import RedisCluster
from tornado_celery_bridge.base.cluster import Moved, in_cluster, slot_of
from tornado_celery_bridge.base.versions import DRIVER


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisCluster]:
    made = RedisCluster(tmp_path_factory.mktemp("cluster"), replicas=False).start()
    yield made
    made.stop()


@pytest.fixture
def client(cluster: RedisCluster) -> Iterator[redis.Redis]:
    slot = slot_of(cluster.transport_options, "127.0.0.1", cluster.port)
    pool = redis.ConnectionPool(connection_class=in_cluster(redis.Connection), cluster=slot)
    with redis.Redis(connection_pool=pool) as made:
        yield made
    pool.disconnect()


def test_scripts_transactions_and_blocking_commands(cluster: RedisCluster, client: redis.Redis) -> None:
    assert client.eval("return redis.call('SET', KEYS[1], ARGV[1])", 1, "{tcb}.a", "1")
    with client.pipeline(transaction=True) as pipe:
        pipe.get("{tcb}.a")
        pipe.rpush("{tcb}.list", "x")
        assert pipe.execute() == [b"1", 1]
    assert client.blpop(["{tcb}.none", "{tcb}.list"], timeout=1) == (b"{tcb}.list", b"x")
    with cluster.master.client() as master:
        assert master.get("{tcb}.a") == b"1"


async def test_keys_that_move(cluster: RedisCluster, client: redis.Redis) -> None:
    """The connection counts as lost once, and nothing was done; the next one is to where they are."""
    slot = slot_of(cluster.transport_options, "127.0.0.1", cluster.port)
    asyncios = redis.asyncio.Redis(
        connection_pool=redis.asyncio.ConnectionPool(
            connection_class=in_cluster(redis.asyncio.Connection), cluster=slot, **DRIVER
        )
    )
    assert await asyncios.incr("{tcb}.count") == 1
    assert await asyncio.to_thread(client.incr, "{tcb}.count") == 2
    await asyncio.to_thread(cluster.move)
    with pytest.raises(Moved, match="does not serve the keys: "):
        await asyncio.to_thread(client.incr, "{tcb}.count")
    with pytest.raises(Moved):
        await asyncios.incr("{tcb}.count")
    assert await asyncio.to_thread(client.incr, "{tcb}.count") == 3
    assert await asyncios.incr("{tcb}.count") == 4
    await asyncios.aclose(close_connection_pool=True)


def test_without_a_hash_tag() -> None:
    with pytest.raises(ImproperlyConfigured, match=r"all keys need one hash tag: global_keyprefix is 'mine[.]'"):
        slot_of({"cluster": ["127.0.0.1:6379"], "global_keyprefix": "mine."}, "127.0.0.1", 6379)
    assert slot_of({}, "127.0.0.1", 6379) is None
