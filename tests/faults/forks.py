"""Runs commands in processes that are forked from one that has everything imported, so that many can be killed.

Lines of JSON come in, each a command; for each its process number goes out at once, and its exit status at its end.
"""

import contextlib
import gc
import importlib
import json
import os
import pkgutil
import resource
import sys
import traceback
from pathlib import Path

import sklearn.datasets  # noqa: F401 - what commands import when they need it

import infoprune
from infoprune.cli import main
from infoprune.measure import figures

COMMAND = Path(__file__).with_name("command.py")


def import_everything():
    for module in pkgutil.walk_packages(infoprune.__path__, "infoprune."):
        # Rooms for packages that are not installed, and the module that is the command itself.
        if not module.name.endswith("__main__"):
            with contextlib.suppress(ImportError):
                importlib.import_module(module.name)


def run(request):
    """Become one command, in a session of its own; never come back."""
    os.setsid()
    log = os.open(request["log"], os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    for stream in (1, 2):
        os.dup2(log, stream)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    os.chdir(request["folder"])
    if request["largest"] is not None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (request["largest"], request["largest"]))
    sys.argv = [str(COMMAND), *request["words"]]
    code = 1
    try:
        main()
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else 0
    except BaseException:
        traceback.print_exc()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def tell(number):
    sys.stdout.write(f"{number}\n")
    sys.stdout.flush()


def serve():
    import_everything()
    figures.TURN = 0.005  # as in tests/conftest.py
    gc.freeze()
    for line in sys.stdin:
        request = json.loads(line)
        process = os.fork()
        if process == 0:
            run(request)
        tell(process)
        _, status = os.waitpid(process, 0)
        tell(os.waitstatus_to_exitcode(status))


if __name__ == "__main__":
    serve()
    os._exit(0)  # taking everything down again that was imported takes seconds
