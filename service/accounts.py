"""The user of the machine that runs the code of users, where the operator names one (``WARPTUNE_SLOT_USER``)."""

from __future__ import annotations

import os
import pwd
import subprocess
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from service.settings import Settings, child_environment


@dataclass(frozen=True, slots=True)
class Account:
    """A user of the machine whom a process of root can become."""

    name: str
    uid: int
    gid: int

    @classmethod
    def of(cls, name: str) -> Account:
        """Return the account of a user.

        Raises:
            OSError: The user does not exist or is root, or this process may not become another user.
        """
        try:
            found = pwd.getpwnam(name)
        except KeyError:
            raise OSError(f"WARPTUNE_SLOT_USER names the user {name}, whom this machine does not have") from None
        if found.pw_uid == 0:
            raise OSError("WARPTUNE_SLOT_USER must be another user than root")
        if os.geteuid() != 0:
            raise OSError(
                f"WARPTUNE_SLOT_USER is {name}: start the worker as root, so that it can start slots as {name}"
            )
        return cls(name, found.pw_uid, found.pw_gid)

    @classmethod
    def of_children(cls, name: str | None) -> Account | None:
        """Return the account for children of this process; None if they keep its own, as it is not root anyway."""
        return cls.of(name) if name is not None and os.geteuid() == 0 else None

    def enter(self) -> None:
        """Make this process one of the user, for good."""
        os.initgroups(self.name, self.gid)
        os.setgid(self.gid)
        os.setuid(self.uid)

    @property
    def for_popen(self) -> dict[str, Any]:
        """The arguments with which ``subprocess`` starts a process of the user."""
        return {"user": self.uid, "group": self.gid, "extra_groups": os.getgrouplist(self.name, self.gid)}

    def at_home(self, folder: Path) -> dict[str, str]:
        """Return the environment variables of a process of the user that has its files in a folder."""
        return {"HOME": str(folder), "TMPDIR": str(folder), "USER": self.name}

    def give(self, folder: Path) -> None:
        """Make the user the owner of a folder, who then finds it; its files stay ours."""
        os.chown(folder, self.uid, self.gid)
        parent = folder.parent
        if parent.stat().st_uid == os.geteuid():
            parent.chmod(parent.stat().st_mode | 0o011)  # a temporary folder of ours is closed to others

    def require_access(self, folder: Path) -> None:
        """Check that the user can run this program and read a folder.

        Raises:
            OSError: It cannot. The message says what is closed.
        """
        code = "import os, sys, service.training.run; os.listdir(sys.argv[1])"
        closed = f"{self.name}, the user of WARPTUNE_SLOT_USER, cannot read what a slot needs"
        try:
            done = subprocess.run(
                [sys.executable, "-P", "-c", code, str(folder)],
                env=child_environment(),
                stdin=subprocess.DEVNULL,
                capture_output=True,
                text=True,
                check=False,
                cwd="/",
                **self.for_popen,
            )
        except PermissionError as error:
            raise OSError(f"{closed}: {error}") from error
        if done.returncode:
            raise OSError(f"{closed}: {done.stderr.strip().rsplit(chr(10), 1)[-1]}")


def user_code_popen(settings: Settings, folders: Iterable[Path]) -> dict[str, Any]:
    """Return the arguments with which ``subprocess`` starts a child that runs code of users.

    It knows what that code may be, and the CPUs that it has to bind itself to. If the operator has named a user for
    such code, the child is one of theirs: they get the folders, and it has its own files in the last of them.

    Raises:
        OSError: The machine does not have this user.
    """
    changes = {"WARPTUNE_ALLOWED_MODULES": settings.allowed_modules or ""}
    if settings.slot_cpus is not None:
        changes["WARPTUNE_SLOT_CPUS"] = settings.slot_cpus
    environment = child_environment(changes)
    account = Account.of_children(settings.slot_user)
    if account is None:
        return {"env": environment}
    for folder in folders:
        account.give(folder)
        environment |= account.at_home(folder)
    return {"env": environment, **account.for_popen}
