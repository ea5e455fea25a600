"""What is closed at the end of a ``with``: one class to inherit from."""

from __future__ import annotations

from types import TracebackType
from typing import TYPE_CHECKING

if TYPE_CHECKING:  # the device agent takes this file to Python 3.10
    from typing import Self


class Closing:
    """Enters as itself and calls :meth:`close` on the way out."""

    def close(self) -> None:
        """Let go of what is held; closing twice is fine."""
        raise NotImplementedError

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()
