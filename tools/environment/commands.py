"""Long commands: with a sign of life, and one sentence where they fail."""

import fcntl
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent.parent
HEARTBEAT = 30  # seconds
GRACE = 10  # seconds in which an interrupted command may end by itself

DOWNLOAD_FAILED = re.compile(
    r'No matching distribution|ConnectionError|Max retries|HTTP error|timed out'
    r'|name resolution|IncompleteRead|Connection broken|ProxyError|SSLError'
    r'|DO NOT MATCH THE HASHES'
)
BUILD_FAILED = re.compile(r'Failed building wheel|Failed to build|exited-with-error')


class SetupError(Exception):
    """What stopped the set-up and what to do, in one sentence."""


def last_line(text, word=''):
    """The last line that is not blank, of those with `word` in them where there are."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    wanted = [line for line in lines if word.lower() in line.lower()]
    return (wanted or lines or ['it said nothing'])[-1]


def elapsed(seconds):
    """A duration as people say it."""
    minutes, seconds = divmod(round(seconds), 60)
    return f'{minutes} min {seconds:02d} s' if minutes else f'{seconds} s'


def latest_output(log):
    """What the last command in a log wrote."""
    return log.read_text(errors='replace').rpartition('\n$ ')[2]


def explain_failure(title, log):
    """One sentence on why a command failed, from what it wrote."""
    text = latest_output(log)
    stopped = re.search(r'^Set-up stopped: (.+)', text, re.MULTILINE)
    if stopped:  # by a command of ours, which explained it
        return stopped.group(1)
    tail = '\n'.join(text.splitlines()[-60:])
    if 'No space left on device' in tail:
        reason = 'the disk is full; make room'
    elif BUILD_FAILED.search(tail):
        raised = re.findall(r'^\s*(?:\w+\.)*(\w+Error: .+)', text, re.MULTILINE)
        why = raised[-1] if raised else last_line(text, 'error:')
        reason = f'building it failed ({why}); mend that'
    elif DOWNLOAD_FAILED.search(tail):
        reason = f'a download failed ({last_line(tail, "error")}); check the network'
    else:
        reason = f'it failed ({last_line(tail, "error")}); mend that'
    return (
        f'{title}: {reason}, and run the same command again (finished steps are kept; '
        f'the full log is {log}).'
    )


def progress(log):
    """What a running command is at: the compiled share, or its last line."""
    text = latest_output(log)
    share = re.findall(r'^\s*\[(\d+)/(\d+)\]', text, re.MULTILINE)
    if share:
        return 'compiled {} of {} files'.format(*share[-1])
    # A command of ours gives such signs of life itself.
    return re.sub(r'^[\d a-z]+ s: ', '', last_line(text))[:70]


def compile_jobs():
    """Compilers at a time: a core and 2 GB of memory for each."""
    memory = os.sysconf('SC_PAGE_SIZE') * os.sysconf('SC_PHYS_PAGES') // 2**31
    return max(1, min(os.cpu_count() or 1, memory))


def run(command, title, log, **environment):
    """Runs a command with a sign of life each half minute, its output in a log.

    Args:
        command: The command as a list.
        title: What it is called in an error.
        log: The file that its output is added to.
        environment: Variables to set for it.
    """
    variables = dict(os.environ, PYTHONUNBUFFERED='1', **environment)
    variables.setdefault('MAX_JOBS', str(compile_jobs()))
    start = time.monotonic()
    with open(str(log), 'a') as output:
        output.write('\n$ {}\n'.format(' '.join(command)))
        output.flush()
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            env=variables,
            cwd=str(ROOT),
            start_new_session=True,
        )
        try:
            while process.poll() is None:
                try:
                    process.wait(HEARTBEAT)
                except subprocess.TimeoutExpired:
                    at = elapsed(time.monotonic() - start)
                    print(f'      {at}: {progress(log)}', flush=True)
        except KeyboardInterrupt:
            stop(process)
            raise
    if process.returncode:
        raise SetupError(explain_failure(title, log))


def stop(process):
    """Ends a command and all that it started: pip's compilers must not go on alone."""
    os.killpg(process.pid, signal.SIGTERM)
    try:
        process.wait(GRACE)
        os.killpg(process.pid, signal.SIGKILL)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    except ProcessLookupError:
        pass


def lock(path, message):
    """Waits until nobody else holds a file or folder; lasts until the process ends.

    Args:
        path: What to hold.
        message: Printed if it must wait.

    Returns:
        A file descriptor; to close it ends the lock earlier.
    """
    handle = os.open(str(path), os.O_RDONLY)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        print(message, flush=True)
        fcntl.flock(handle, fcntl.LOCK_EX)
    return handle


def status_of(action):
    """Runs an action; its exit status, after a sentence where it was stopped."""
    for number in (signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(number) == signal.SIG_DFL:
            signal.signal(number, signal.default_int_handler)
    try:
        return action() or 0
    except SetupError as error:
        print(f'Set-up stopped: {error}', file=sys.stderr)
        return 1
    except OSError as error:
        print(f'Set-up stopped by the system: {error}.', file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print('Set-up interrupted; the same command resumes it.', file=sys.stderr)
        return 130
