"""Runs a program in a terminal of its own, as a person would: `terminal.py COLUMNSxROWS PROGRAM ARGUMENT…`.

Lines of standard input drive it: `type TEXT` types a line, `resize COLUMNSxROWS` changes the terminal's size, `expect TEXT` waits until
TEXT has been shown since the last `expect`; `insist TEXT KEYS` presses KEYS every two seconds until it has. It ends with the program's exit code; 124 when something that is expected does not come.
"""

import fcntl
import os
import pty
import select
import struct
import sys
import termios
import time

# Less than its caller's, who wants to see what was shown.
PATIENCE = 40


def resize(terminal, size):
    columns, rows = (int(number) for number in size.split("x"))
    fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))


def press(terminal, keys):
    os.write(terminal, keys.encode().decode("unicode_escape").encode())


def main():
    size, *command = sys.argv[1:]
    child, terminal = pty.fork()
    if child == 0:
        resize(0, size)
        os.execvp(command[0], command)
    shown = b""

    def read(patience):
        """Some more output; False at its end."""
        nonlocal shown
        if not select.select([terminal], [], [], patience)[0]:
            return True
        try:
            piece = os.read(terminal, 65536)
        except OSError:
            piece = b""
        shown += piece
        sys.stdout.buffer.write(piece)
        sys.stdout.flush()
        return bool(piece)

    for line in sys.stdin:
        verb, _, text = line.rstrip("\n").partition(" ")
        if verb == "type":
            os.write(terminal, text.encode() + b"\n")
        elif verb == "keys":
            press(terminal, text)
        elif verb == "resize":
            resize(terminal, text)
        elif verb in ("expect", "insist"):
            text, _, keys = text.partition(" ") if verb == "insist" else (text, "", "")
            now = time.monotonic()
            deadline, again = now + PATIENCE, now
            while text.encode() not in shown:
                if keys and time.monotonic() >= again:
                    press(terminal, keys)
                    again = time.monotonic() + 2
                if time.monotonic() > deadline or not read(1):
                    print(f"terminal.py: {text!r} did not come", file=sys.stderr)
                    sys.exit(124)
            shown = shown.split(text.encode(), 1)[1]
        else:
            sys.exit(f"terminal.py: {line!r}")
    deadline = time.monotonic() + PATIENCE
    while read(1) and time.monotonic() < deadline:
        pass
    sys.exit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))


main()
