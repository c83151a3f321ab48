"""The history that the settings name."""

from __future__ import annotations

from typing import TYPE_CHECKING

from runbooks_lib.errors import UsageError
from runbooks_lib.history.model import History
from runbooks_lib.history.sqlite import SqliteHistory

if TYPE_CHECKING:
    from runbooks_lib.config import HistorySettings


def open_history(settings: HistorySettings) -> History:
    """The history of `[history]`: a SqliteHistory for `path`, a PrometheusHistory for `url`. Connects to nothing yet.

    Raises UsageError when the settings name neither, or a secret that cannot be resolved.
    """
    if settings.url is not None:
        # Imported here: an HTTP client is of no use to those who keep a file.
        from runbooks_lib.history.prometheus import PrometheusHistory

        return PrometheusHistory(
            settings.url,
            instance_label=settings.instance_label,
            user=settings.user,
            password=settings.password,
            token=settings.token,
        )
    if settings.path is None:
        raise UsageError(
            "[history] names neither a path nor a url", next='for example: path = "outputs/history.sqlite"'
        )
    return SqliteHistory(settings.path)
