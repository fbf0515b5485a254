"""A session store in Redis."""

import time
from collections.abc import Sequence

import redis

from pathors_agent.stores import SessionStore


class RedisSessions(SessionStore):
    """Sessions in Redis: a list of messages and a key for the lease of each."""

    def __init__(self, client: redis.Redis) -> None:
        self.redis = client

    def load(self, session_id: str, *, holder: str, seconds: float) -> Sequence[str | bytes] | None:
        lease, span = f"lease:{session_id}", round(seconds * 1000)
        if not self.redis.set(lease, holder, nx=True, px=span):
            if self.redis.get(lease) != holder.encode():
                return None
            self.redis.pexpire(lease, span)
        return self.redis.lrange(f"messages:{session_id}", 0, -1)

    def append(self, session_id: str, messages: Sequence[str], *, holder: str, after: int) -> bool:
        lease, key = f"lease:{session_id}", f"messages:{session_id}"
        with self.redis.pipeline() as transaction:
            try:
                transaction.watch(lease, key)
                is_held = transaction.get(lease) == holder.encode()
                if not is_held or transaction.llen(key) != after:
                    return False
                transaction.multi()
                if messages:
                    transaction.rpush(key, *messages)
                    transaction.zadd("sessions", {session_id: time.time()})
                transaction.delete(lease)
                transaction.execute()
            except redis.WatchError:
                return False
        return True

    def list(self, *, limit: int = 100, offset: int = 0) -> Sequence[str]:
        return [
            key.decode() for key in self.redis.zrevrange("sessions", offset, offset + limit - 1)
        ]

    def delete(self, session_id: str) -> None:
        with self.redis.pipeline() as transaction:
            transaction.delete(f"lease:{session_id}", f"messages:{session_id}")
            transaction.zrem("sessions", session_id)
            transaction.execute()
