"""What a kernel has published waits for a slow reader, and nothing of it is dropped."""

from pathlib import Path

import zmq
from jupyter_client.kernelspec import KernelSpec
from jupyter_client.manager import KernelManager

from runbooks_lib.reports.engine import Kernel
from runbooks_lib.reports.kernel_start import MOST_WAITING


class Started(KernelManager):
    """A report's kernel, for a client that reads when it wants to."""

    @property
    def kernel_spec(self) -> KernelSpec:
        return Kernel().kernel_spec


def test_nothing_is_dropped_while_nobody_reads(tmp_path: Path) -> None:
    manager = Started(connection_file=str(tmp_path / "k.json"), transport="ipc")
    manager.context.setsockopt(zmq.RCVHWM, MOST_WAITING)
    manager.start_kernel()
    client = manager.client()
    try:
        client.start_channels()
        client.wait_for_ready(timeout=120)
        asked = client.execute("from IPython.display import display\nfor n in range(6_000): display(n)")
        while client.get_shell_msg(timeout=120)["parent_header"].get("msg_id") != asked:
            pass
        shown = 0
        while True:
            message = client.get_iopub_msg(timeout=60)
            if message["parent_header"].get("msg_id") != asked:
                continue
            shown += message["msg_type"] == "display_data"
            if message["content"].get("execution_state") == "idle":
                break
        assert shown == 6_000
    finally:
        client.stop_channels()
        manager.shutdown_kernel(now=True)
        manager.context.term()
