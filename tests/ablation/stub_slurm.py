"""SLURM's commands as a few lines of shell: what they are asked is written down."""

import re
from pathlib import Path

import pytest

# `bad` may exit, sleep or print; what it prints is all that sbatch says, where it says something.
SBATCH = """\
#!/bin/sh
set -e
cat "$1" > "{home}/script"
cd "{home}"
name=$(sed -n 's/^#SBATCH --job-name=//p' script | tr -d "'" | tr / _)
echo "$name" >> calls
cp script "$name.sh"
if [ -f bad ] && grep -q bad script; then . ./bad; fi
id=$((100 + $(wc -l < calls)))
echo "$id $name" >> queue
echo "Submitted batch job $id"
"""


class Slurm:
    """``calls``: how often sbatch was called; ``queue``: what squeue lists."""

    def __init__(self, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.home, self.bin = home, home / "bin"
        self.bin.mkdir(parents=True)
        (home / "queue").touch()
        (home / "calls").touch()
        self.command("sbatch", SBATCH.format(home=home))
        self.command("squeue", f'#!/bin/sh\ncat "{home}/queue"\n')
        self.command("sacct", "#!/bin/sh\necho TIMEOUT\n")
        self.command("srun", '#!/bin/sh\nwhile [ "${1#--}" != "$1" ]; do shift; done\nexec "$@"\n')
        self.command("scontrol", f'#!/bin/sh\necho "$@" >> "{home}/requeued"\n')
        monkeypatch.setenv("PATH", f"{self.bin}:/usr/bin:/bin")

    def command(self, name: str, text: str) -> None:
        (self.bin / name).write_text(text)
        (self.bin / name).chmod(0o755)

    def bad(self, does: str) -> None:
        """sbatch does so with a script that has ``bad`` in it."""
        (self.home / "bad").write_text(does)

    def good(self) -> None:
        (self.home / "bad").unlink(missing_ok=True)

    def runs_them(self) -> None:
        """sbatch begins each job at once; the queue forgets none."""
        text = (self.bin / "sbatch").read_text()
        begin = 'SLURM_JOB_ID=$id setsid bash "$name.sh" > "$id.out" 2>&1 < /dev/null &\n'
        self.command("sbatch", text.replace('echo "Submitted', f'{begin}echo "Submitted'))

    @property
    def calls(self) -> int:
        return len((self.home / "calls").read_text().splitlines())

    def forget(self, *names: str) -> None:
        """The jobs have left the queue; all of them for no names."""
        lines = (self.home / "queue").read_text().splitlines()
        stay = [line for line in lines if names and not any(name in line for name in names)]
        (self.home / "queue").write_text("".join(f"{line}\n" for line in stay))

    def script(self, name: str) -> str:
        """The last batch script of the job."""
        found = sorted(self.home.glob("*.sh"), key=lambda p: p.stat().st_mtime_ns)
        return [p for p in found if re.fullmatch(rf"{re.escape(name)}-\w{{8}}\.sh", p.name)][
            -1
        ].read_text()
