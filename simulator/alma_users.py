"""Alma's users: who is known by which identifier. Identifiers don't regard case."""

import threading
from datetime import datetime

from simulator.alma_records import AlmaRefusal, User
from simulator.clock import Clock


class UserRegister:
    """The users of one institution. Every change holds ``lock``."""

    def __init__(self, clock: Clock) -> None:
        self.clock = clock
        self.lock = threading.RLock()
        self.users: list[User] = []
        self._by_id: dict[str, User] = {}

    def add_user(
        self,
        primary_id: str,
        *,
        user_group: str = "UNDERGRAD",
        first_name: str = "Student",
        last_name: str = "",
        identifiers: dict[str, str] | None = None,
        email: str | None = None,
        modified_at: datetime | None = None,
        pseudo: bool = False,
    ) -> User:
        """Add a user; raises ValueError when an identifier is taken (ids don't regard case)."""
        with self.lock:
            now = self.clock.now()
            user = User(
                primary_id,
                user_group,
                first_name,
                last_name or primary_id,
                modified_at or now,
                modified_at or now,
                dict(identifiers or {}),
                email,
                pseudo=pseudo,
            )
            if not pseudo:
                for identifier in (primary_id, *user.identifiers.values()):
                    if identifier.casefold() in self._by_id:
                        raise ValueError(f"identifier taken: {identifier}")
                for identifier in (primary_id, *user.identifiers.values()):
                    self._by_id[identifier.casefold()] = user
            self.users.append(user)
            return user

    def user(self, user_id: str, id_type: str = "all_unique") -> User:
        """The user with this identifier, case disregarded. Refuses with 401861, or 401890 by type."""
        with self.lock:
            user = self._by_id.get(user_id.casefold())
            if id_type != "all_unique":
                held = user is not None and (
                    user.primary_id if id_type == "primary_id" else user.identifiers.get(id_type, "")
                )
                if not held or str(held).casefold() != user_id.casefold():
                    raise AlmaRefusal(
                        "401890", f"User with identifier {user_id} of type {id_type} was not found."
                    )
            if user is None:
                raise AlmaRefusal("401861", f"User with identifier {user_id} was not found.")
            return user

    def rekey_user(self, old_id: str, new_id: str) -> User:
        """Give a user another primary id. The fees and their ids stay; the old id is unknown after."""
        with self.lock:
            user = self.user(old_id)
            if new_id.casefold() in self._by_id:
                raise ValueError(f"identifier taken: {new_id}")
            del self._by_id[user.primary_id.casefold()]
            user.primary_id = new_id
            self._by_id[new_id.casefold()] = user
            user.modified_at = self.clock.now()
            return user

    def set_identifier(self, user_id: str, id_type: str, value: str) -> User:
        """Give a user an identifier, in place of the one of that type; the old value is unknown after."""
        with self.lock:
            user = self.user(user_id)
            if self._by_id.get(value.casefold(), user) is not user:
                raise ValueError(f"identifier taken: {value}")
            old = user.identifiers.get(id_type)
            if old is not None:
                self._by_id.pop(old.casefold(), None)
            user.identifiers[id_type] = value
            self._by_id[value.casefold()] = user
            user.modified_at = self.clock.now()
            return user

    def purge_user(self, user_id: str) -> User:
        """Remove a user. The fees stay in this model's books but no call reaches them any more."""
        with self.lock:
            user = self.user(user_id)
            user.purged = True
            user.modified_at = self.clock.now()
            self.users.remove(user)
            for identifier in (user.primary_id, *user.identifiers.values()):
                self._by_id.pop(identifier.casefold(), None)
            return user

    def modified_since(self, since: datetime) -> list[User]:
        """Users changed at or after ``since``, in the order they were added."""
        with self.lock:
            return [user for user in self.users if user.modified_at >= since and not user.pseudo]
