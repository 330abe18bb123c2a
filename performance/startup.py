"""Start-up time of the command line: `python performance/startup.py [-n 7]`. Prints the median wall seconds per process."""

import argparse
import statistics
import subprocess
import sys
import time

COMMANDS = {
    "python -c pass": ["-c", "pass"],
    "slidepipe --help": ["-m", "slidepipe.cli", "--help"],
    "slidepipe plugins list": ["-m", "slidepipe.cli", "plugins", "list"],
}


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("-n", "--runs", type=int, default=7)
    runs = parser.parse_args().runs
    for name, arguments in COMMANDS.items():
        seconds = []
        for _ in range(runs + 1):
            started = time.perf_counter()
            subprocess.run([sys.executable, *arguments], check=True, stdout=subprocess.DEVNULL)
            seconds.append(time.perf_counter() - started)
        print(
            f"{name}: {statistics.median(seconds[1:]):.3f} s (of {runs}, first left out)"
        )  # the first run fills caches


if __name__ == "__main__":
    main()
