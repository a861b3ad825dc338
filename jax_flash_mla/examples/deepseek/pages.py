"""Who owns which page."""

from __future__ import annotations


class PagePool:
    """Pages 0 … size − 1; each is free, or taken by one request."""

    def __init__(self, size: int):
        self.size = size
        self._free = list(range(size))

    @property
    def free(self) -> int:
        """How many are free."""
        return len(self._free)

    def take(self, count: int) -> list[int] | None:
        """So many pages, or None where fewer are free; no page is then taken."""
        if count > len(self._free):
            return None
        taken, self._free = self._free[:count], self._free[count:]
        return taken

    def give(self, pages: list[int]) -> None:
        """Pages that nobody needs any more.

        Raises:
          ValueError: one of them is free already, or no page of this pool.
        """
        for page in pages:
            if page in self._free or not 0 <= page < self.size:
                raise ValueError(f"page {page} was given back, but nobody had taken it.")
            self._free.append(page)
