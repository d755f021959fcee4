"""Warnings of the package, kept: what is only printed is lost when the terminal closes."""

import logging
from types import TracebackType

_LOGGER = "mace_mm"


class RecordedWarnings(logging.Handler):
    """Collects what the package warns of while it is entered, each text once.

    Attributes:
        texts: in the order in which they were said.
    """

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.texts: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        """Keep a record; called by logging."""
        text = record.getMessage()
        if text not in self.texts:
            self.texts.append(text)

    def __enter__(self) -> "RecordedWarnings":
        logging.getLogger(_LOGGER).addHandler(self)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        logging.getLogger(_LOGGER).removeHandler(self)
