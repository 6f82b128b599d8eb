"""Processes that share a batch, and how they leave."""

import multiprocessing
import os
import signal
import socket
import subprocess
import sys

import psutil
import pytest
import torch

from stylegan2_msp.errors import UserError
from stylegan2_msp.signals import asked_to_end
from stylegan2_msp.training import distributed
from stylegan2_msp.training.distributed import join_world

WORKER = """
import os, pathlib, torch
from stylegan2_msp.training.distributed import join_world, leave_world

world = join_world("cpu")
weight = torch.nn.Parameter(torch.ones(3))
optimizer = torch.optim.Adam([weight])  # imports what may hold the group
weight.sum().backward()
world.average_gradients([weight])
optimizer.step()
inside = [task.joinpath("comm").read_text().strip() for task in pathlib.Path("/proc/self/task").iterdir()]
leave_world()
outside = [task.joinpath("comm").read_text().strip() for task in pathlib.Path("/proc/self/task").iterdir()]
print(any("gloo" in name for name in inside), [name for name in outside if "gloo" in name or "tcpstore" in name])
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="threads are named by /proc")
def test_no_thread_of_the_group_outlives_it():
    """A thread of gloo that still runs when the interpreter goes can abort the process, after all its work is saved."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    place = {**os.environ, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "WORLD_SIZE": "2"}
    workers = [
        subprocess.Popen(
            [sys.executable, "-c", WORKER], env={**place, "RANK": str(rank)}, stdout=subprocess.PIPE, text=True
        )
        for rank in (0, 1)
    ]
    said = [worker.communicate(timeout=120)[0].strip() for worker in workers]
    if torch.__version__ < "2.13" and said == ["False []"] * 2:
        pytest.skip("this torch does not name the threads of gloo")
    assert said == ["True []"] * 2


@pytest.mark.skipif(not hasattr(os, "sched_getaffinity"), reason="no such limit")
def test_processes_share_the_cores_that_they_may_use(monkeypatch):
    """Of a machine of 64 a scheduler may give a job four: two processes of 32 threads each would crawl on them."""
    monkeypatch.setattr(os, "cpu_count", lambda: 64)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {8, 9, 10, 11})
    for name, value in {"RANK": "0", "WORLD_SIZE": "1", "LOCAL_RANK": "0", "LOCAL_WORLD_SIZE": "2"}.items():
        monkeypatch.setenv(name, value)
    threads = torch.get_num_threads()
    try:
        join_world("cpu")
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(threads)


CRASH = """
import os, sys, time
from stylegan2_msp.training.distributed import launch

def work(kind):
    rank = int(os.environ["RANK"])
    os.write(1, f"started {rank}\\n".encode())
    if rank == 1 and kind == "own" or rank == 0 and kind == "abort":
        raise ValueError("the real reason")
    if kind == "abort":
        time.sleep(1)
        os.abort()
    time.sleep(60 if kind == "wait" else 1)
    return 0

if __name__ == "__main__":
    sys.exit(launch(work, 2, sys.argv[1]))
"""


@pytest.mark.skipif(sys.platform == "win32", reason="no such signals")
@pytest.mark.parametrize("kind", ["own", "abort", "wait"])
def test_how_a_process_ended_is_said(tmp_path, kind):
    """Its own error in full, whatever became of the others; a termination before anything began, by its code alone."""
    (tmp_path / "crash.py").write_text(CRASH)
    command = [sys.executable, str(tmp_path / "crash.py"), kind]
    place = {**os.environ, "PYTHONPATH": os.pathsep.join([*sys.path, str(tmp_path)])}
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=place) as child:
        if kind == "wait":
            assert sorted(child.stdout.readline() for _ in range(2)) == ["started 0\n", "started 1\n"]
            child.terminate()
        _, err = child.communicate(timeout=100)
    assert child.returncode == {"own": 1, "abort": 128 + signal.SIGABRT, "wait": 128 + signal.SIGTERM}[kind]
    assert ("ValueError: the real reason" in err) == (kind != "wait"), err
    assert "was killed" not in err


STARTING = """
import os, sys, time
from stylegan2_msp.training.distributed import launch

if __name__ != "__main__":
    os.write(1, f"imports {os.getpid()}\\n".encode())  # at once, where print may write the end of the line later
    time.sleep(float(sys.argv[1]))

def work():
    os.write(1, f"works {os.getpid()}\\n".encode())
    time.sleep(100)
    return 0

if __name__ == "__main__":
    sys.exit(launch(work, 2))
"""


def launched(folder, seconds):
    (folder / "starting.py").write_text(STARTING)
    place = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    return subprocess.Popen(
        [sys.executable, str(folder / "starting.py"), str(seconds)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=place,
        start_new_session=True,
    )


@pytest.mark.skipif(not hasattr(os, "killpg"), reason="no process groups")
def test_ctrl_c_while_the_processes_start_says_nothing_more(tmp_path):
    """A terminal interrupts all of them; those in the middle of their imports used to print where they were."""
    with launched(tmp_path, 100) as child:
        assert {child.stdout.readline().split()[0] for _ in range(2)} == {"imports"}
        os.killpg(child.pid, signal.SIGINT)
        _, err = child.communicate(timeout=60)
    assert child.returncode == 128 + signal.SIGINT
    assert err == ""


@pytest.mark.skipif(sys.platform == "win32", reason="no such signals")
def test_processes_whose_first_one_is_killed_end_too(tmp_path):
    """They used to go on without anyone who could stop them."""
    with launched(tmp_path, 0) as child:
        lines = [child.stdout.readline().split() for _ in range(4)]
        workers = {int(pid) for what, pid in lines if what == "works"}
        assert len(workers) == 2
        child.kill()
        child.communicate(timeout=60)  # until the last of them has closed its end
    assert not any(psutil.pid_exists(pid) and psutil.Process(pid).status() != "zombie" for pid in workers)


LEAVE = """
import torch.distributed as dist
from stylegan2_msp.training.distributed import World, leave_world

world = World(0, 2)
for _ in range(30):
    dist.init_process_group("gloo", rank=0, world_size=1, store=dist.HashStore())
    world.any(False)
    leave_world()
"""


def test_a_process_that_leaves_after_a_message_ends():
    """With torch 2.6 one in ten or so waited for ever."""
    place = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    subprocess.run([sys.executable, "-c", LEAVE], env=place, check=True, timeout=100)


def kill_on_the_spot(pid, signum):
    raise AssertionError("os.kill ends a process of Windows before it can save")


def test_where_ctrl_c_reaches_all_the_workers_are_left_to_save(monkeypatch):
    class Worker:
        pid, exitcode = 1234, None

        def __init__(self, **_):
            pass

        def start(self):
            pass

        def is_alive(self):
            return self.exitcode is None

        def join(self, timeout):
            signal.raise_signal(signal.SIGINT)
            self.exitcode = 128 + signal.SIGINT  # has saved, and left

    class Queue:
        def empty(self):
            return True

    class Context:
        Process, SimpleQueue = Worker, Queue

    monkeypatch.setattr(distributed, "REACHES_ALL", True)
    monkeypatch.setattr(multiprocessing, "get_context", lambda method: Context)
    monkeypatch.setattr(os, "kill", kill_on_the_spot)
    assert distributed.launch(lambda: 0, 2) == 128 + signal.SIGINT


@pytest.mark.parametrize("code", [130, 143, 129], ids=["Ctrl-C", "kill", "a terminal that was closed"])
def test_a_process_that_was_asked_to_end_leaves_the_first_one_time_to_save(code):
    """After SIGHUP, which a closed terminal sends to all of a job, the first one was ended five seconds later."""

    class Worker:
        def __init__(self, code, patience):
            self.exitcode, self.code, self.patience = None, code, patience

        def join(self, timeout):
            self.patience -= timeout
            if self.patience <= 0:
                self.exitcode = self.code

        def terminate(self):
            raise AssertionError("it was saving")

    if code - 128 not in [*signal.Signals]:
        pytest.skip("no such signal")
    saving, gone = Worker(code, 20), Worker(code, 0)
    assert distributed._wait([saving, gone]) == set()
    assert saving.exitcode == code


def test_where_os_kill_calls_no_handler_a_worker_without_parent_saves_too(monkeypatch):
    class Parent:
        def join(self):
            pass

    monkeypatch.setattr(distributed, "REACHES_ALL", True)
    monkeypatch.setattr(multiprocessing, "parent_process", Parent)
    monkeypatch.setattr(os, "kill", kill_on_the_spot)
    asked = []
    with asked_to_end(lambda signum, _: asked.append(signum)):
        distributed._leave_with_parent()
    assert asked == [signal.SIGTERM]


def test_gpus_of_a_torch_without_nccl_and_libuv_share_the_batch(monkeypatch):
    """So torch is built for Windows."""
    begun = []
    monkeypatch.setattr(sys, "platform", "win32")
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "set_device", lambda device: None)
    monkeypatch.setattr(torch.distributed, "is_nccl_available", lambda: False)
    monkeypatch.setattr(
        torch.distributed,
        "init_process_group",
        lambda backend, **_: begun.append((backend, os.environ.get("USE_LIBUV"))),
    )
    monkeypatch.setenv("USE_LIBUV", "")  # taken back after the test
    monkeypatch.delenv("USE_LIBUV")
    for name, value in (("RANK", 1), ("WORLD_SIZE", 2)):
        monkeypatch.setenv(name, str(value))
    assert join_world("cuda").device == torch.device("cuda", 1)
    assert begun == [("gloo", "0")]


def test_a_torch_without_distributed_trains_in_one_process(monkeypatch):
    monkeypatch.setattr(torch.distributed, "is_available", lambda: False)
    monkeypatch.delattr(torch.distributed, "is_initialized")
    distributed.leave_world()


@pytest.mark.parametrize(("address", "named"), [(None, "MASTER_ADDR expected"), ("127.0.0.1", "{port}")])
def test_processes_that_cannot_meet_say_so(monkeypatch, address, named):
    """Launched by hand or by a scheduler's script that sets too little, or a port that another job has."""
    with socket.socket() as other:
        other.bind(("0.0.0.0", 0))
        other.listen()
        port = other.getsockname()[1]
        for name, value in (("RANK", 0), ("WORLD_SIZE", 2), ("MASTER_PORT", port), ("LOCAL_WORLD_SIZE", 1)):
            monkeypatch.setenv(name, str(value))
        monkeypatch.delenv("MASTER_ADDR", raising=False)
        if address is not None:
            monkeypatch.setenv("MASTER_ADDR", address)
        threads = torch.get_num_threads()
        with pytest.raises(UserError, match=rf"2 processes do not find .*{named.format(port=port)}.*MASTER_PORT"):
            join_world("cpu")
        torch.set_num_threads(threads)
