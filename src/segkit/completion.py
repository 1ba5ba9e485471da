"""Shell completion: ``segkit completion bash|zsh|fish`` prints a script, the script asks segkit.

Hydra brings completion of its own, but only for a program that is one ``@hydra.main`` function:
it wants that parser's ``-sc``, knows one root config instead of one for each command, and takes
``train`` for an override. It also has to import Hydra and to compose, half a second for every TAB.
So the scripts call ``segkit __complete WORDS...``, which lists files and the schema's fields and
imports nothing heavy. An answer without a line leaves the word to the shell, as a file name.
"""

import typing
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import fields, is_dataclass
from pathlib import Path

from segkit.cli import COMMANDS, FLAGS
from segkit.conf_files import GROUPS, choices_of, groups_of, nearest
from segkit.datasets import SUBCOMMANDS as DATA_SUBCOMMANDS
from segkit.errors import ConfigError, ExitCode
from segkit.model import SUBCOMMANDS, WORDS
from segkit.plan import OPTIONS as PLAN_OPTIONS
from segkit.schema import CHOICES as VALUE_CHOICES
from segkit.schema import ROOTS

# In bash, "=" and ":" break a word: readline replaces what stands after the last one only.
BASH = r"""# segkit completion for bash; in ~/.bashrc: eval "$(segkit completion bash)"
_segkit() {
    local line=${COMP_LINE:0:COMP_POINT} words=() word found
    read -ra words <<< "$line"
    [[ $line == *[[:space:]] ]] && words+=("")
    word=${words[${#words[@]} - 1]}
    COMPREPLY=()
    while IFS= read -r found; do
        [[ $found == *[=.] ]] && compopt -o nospace 2>/dev/null
        [[ $word == *[=:]* ]] && found=${found#"${word%"${word##*[=:]}"}"}
        COMPREPLY+=("$found")
    done < <("${words[0]/#\~/$HOME}" __complete "${words[@]:1}" 2>/dev/null)
}
complete -o default -o bashdefault -F _segkit segkit
"""

ZSH = r"""# segkit completion for zsh; in ~/.zshrc: eval "$(segkit completion zsh)"
(( $+functions[compdef] )) || { autoload -Uz compinit && compinit }
_segkit() {
    local -a found
    found=(${(f)"$(${~words[1]} __complete "${(@Q)words[2,CURRENT-1]}" "$PREFIX" 2>/dev/null)"})
    if (( ! $#found )); then
        compset -P '*='
        _files
        return
    fi
    compadd -S '' -- ${(M)found:#*[=.]}
    compadd -- ${found:#*[=.]}
}
compdef _segkit segkit
"""

FISH = r"""# segkit completion for fish; in config.fish: segkit completion fish | source
function __segkit_complete
    set -l before (commandline -opc)
    set -l word (commandline -ct)
    set -l found ($before[1] __complete $before[2..-1] "$word" 2>/dev/null)
    if test (count $found) -gt 0
        printf '%s\n' $found
        return
    end
    set -l key (string match -r '^[^=]*=' -- $word)
    for path in (__fish_complete_path (string replace -r '^[^=]*=' '' -- $word))
        echo "$key$path"
    end
end
complete -c segkit -f -k -a '(__segkit_complete)'
"""

SCRIPTS = {"bash": BASH, "zsh": ZSH, "fish": FISH}

USAGE = """\
segkit completion bash|zsh|fish: print the completion script of a shell; to install it

  bash   echo 'eval "$(segkit completion bash)"' >> ~/.bashrc
  zsh    echo 'eval "$(segkit completion zsh)"' >> ~/.zshrc
  fish   echo 'segkit completion fish | source' >> ~/.config/fish/config.fish"""

OPTIONS = ("--help", "--cfg", "--multirun", "--config-dir", "--trust")
TABLE_OPTIONS = (
    *("--help", "--list", "--plan", "--status", "--check", "--only", "--cfg"),
    *("--config-dir", "--trust", "--"),
)
INPUT_WORDS = {"submit": ("voc", "cityscapes"), "crf": ("tune",)}  # the word before the keys
COMPARE = ("--json", "--help")  # other words are paths
OWN_WORDS = {"doctor": ("--json", "--help", "runs="), "completion": (*SCRIPTS, "--help")}
BENCH_OPTIONS = ("--list", "--rounds", "--device", "--out", "--keep", "--help")

# What TAB offers after KEY=: the closed vocabularies, and two keys that also take other words.
CHOICES: dict[str, tuple[str, ...]] = {
    "device": ("auto", "cpu", "cuda"),
    "pretrained": ("imagenet", "none"),
    **{key: words for key, words in VALUE_CHOICES.items() if "*" not in key},
}


def main(arguments: Sequence[str]) -> int:
    """Print a shell's script."""
    shell = arguments[0] if arguments else ""
    if {"-h", "--help"} & set(arguments):
        print(USAGE)
        return ExitCode.OK
    if shell not in SCRIPTS or len(arguments) > 1:
        found = f"{' '.join(arguments)!r}" if arguments else "names no shell"
        fix = "type one of: " + ", ".join(SCRIPTS) + nearest(shell, SCRIPTS)
        raise ConfigError("USAGE", "completion", found, fix)
    print(SCRIPTS[shell], end="")
    return ExitCode.OK


def complete(words: Sequence[str]) -> int:
    """``segkit __complete WORDS...``: the last word's completions, one a line."""
    print("".join(f"{c}\n" for c in completions(words)), end="")
    return ExitCode.OK


def completions(words: Sequence[str]) -> list[str]:
    """What the last of ``words`` (all after ``segkit``) can become; nothing means a file name."""
    *before, word = words or [""]
    if not before:
        return starting(word, [*COMMANDS, "--help", "--version"])
    command = before[0]
    if command in OWN_WORDS:
        return starting(word, OWN_WORDS[command])
    if command == "bench":
        return bench_completions(before, word)
    if command == "compare":
        return starting(word, COMPARE) if word.startswith("-") else []
    if command == "model":
        return model_completions(before[1:], word)
    if command == "data":
        return data_completions(before[1:], word)
    if command == "table":
        return table_completions(before, word)
    if command == "plan":
        return plan_completions(before, word)
    if command not in ROOTS:
        return []
    if before[-1] in FLAGS:
        return starting(word, ("job",)) if before[-1] in ("-c", "--cfg") else []
    if word.startswith("-"):
        return starting(word, OPTIONS)
    key, equals, value = word.partition("=")
    if equals:
        return values_of(command, key, value, config_dir_of(before))
    if command == "predict" and word and is_path_begun(word):
        return []
    typed = {w.partition("=")[0] for w in before[1:]}
    own = INPUT_WORDS.get(command, ()) if len(before) == 1 else ()
    keys = (k for k in keys_of(command, word) if k.rstrip("=") not in typed)
    return starting(word, own) + starting(word, keys)


def model_completions(before: Sequence[str], word: str) -> list[str]:
    """A subcommand, then its own words, and the keys of train where a model is composed."""
    if not before:
        return starting(word, (*SUBCOMMANDS, "--help"))
    composes = before[0] in ("info", "rf")
    if composes and word.startswith("-") and before[-1] not in FLAGS:
        return starting(word, ("--json", "--help", "--config-dir", "--trust"))
    own = starting(word, WORDS.get(before[0], ()))
    if before[0] == "weights" and word.startswith("backbone="):
        return values_of("train", "backbone", word.removeprefix("backbone="), config_dir_of(before))
    return own + completions(["train", *before[1:], word]) if composes else own


def plan_completions(before: Sequence[str], word: str) -> list[str]:
    """The words of train, or behind ``table`` those of a table."""
    if before[1:2] == ["table"]:
        return table_completions(before[1:], word)
    if word.startswith("-") and before[-1] not in FLAGS:
        return starting(word, PLAN_OPTIONS)
    own = starting(word, ("table",)) if len(before) == 1 else []
    return own + completions(["train", *before[1:], word])


def table_completions(before: Sequence[str], word: str) -> list[str]:
    """Tables and papers, then flags, rows and keys; behind ``--`` the keys of train."""
    from segkit.ablation import book

    config_dir = config_dir_of(before)
    if "--" in before:
        return completions(["train", *before[before.index("--") + 1 :], word])
    known = book.table_ids(config_dir)
    if before[-1] == "--only":
        ids = book.asked_for([w for w in before if w in known], config_dir)
        rows = (row.key for i in ids for row in book.read(i, config_dir).rows)
        return starting(word, list(dict.fromkeys(rows)))
    if before[-1] in FLAGS:
        return starting(word, ("job",)) if before[-1] in ("-c", "--cfg") else []
    if word.startswith("-"):
        return starting(word, TABLE_OPTIONS)
    key, equals, value = word.partition("=")
    if equals:
        return values_of("table", key, value, config_dir)
    papers = list(dict.fromkeys(table_id.partition(".")[0] for table_id in known))
    typed = {w.partition("=")[0] for w in before}
    ids = [name for name in (*known, *papers, "all") if name not in typed]
    keys = (k for k in keys_of("table", word) if k.rstrip("=") not in typed)
    return starting(word, ids) + starting(word, keys)


def bench_completions(before: Sequence[str], word: str) -> list[str]:
    """Rows, and options behind a dash; no rows outside a checkout."""
    from segkit import bench

    if before[-1] == "--device":
        return starting(word, bench.DEVICES)
    if before[-1] in ("--rounds", "--out"):
        return []
    if word.startswith("-"):
        return starting(word, BENCH_OPTIONS)
    with suppress(ConfigError):
        return starting(word, list(bench.titles_of(bench.rows_folder())))
    return []


def data_completions(before: Sequence[str], word: str) -> list[str]:
    """A subcommand, then its words."""
    if not before:
        return starting(word, (*DATA_SUBCOMMANDS, "--help"))
    known = DATA_SUBCOMMANDS.get(before[0])
    return starting(word, (*known.words, "--help")) if known else []


def starting(word: str, known: "Sequence[str] | Iterator[str]") -> list[str]:
    return [k for k in known if k.startswith(word)]


def keys_of(command: str, word: str) -> Iterator[str]:
    """``key=`` for groups and scalars, ``node.`` for nodes; behind a node's dot, its own keys."""
    root = ROOTS[command]
    node, dot, _ = word.partition(".")
    if dot:
        yield from (f"{node}.{name}=" for name in hints_of(command, node))
        return
    for group in groups_of(command):
        yield f"{group}="
    for field in fields(root):
        if field.name not in GROUPS and "help" in field.metadata:
            yield f"{field.name}="
    for field in fields(root):
        if hints_of(command, field.name):
            yield f"{field.name}."


def hints_of(command: str, node: str) -> dict[str, object]:
    """The keys of a node with their types; empty for what is not one of the schema's nodes."""
    hint = typing.get_type_hints(ROOTS[command]).get(node)
    return typing.get_type_hints(hint) if is_dataclass(hint) else {}


def values_of(command: str, key: str, value: str, config_dir: str | None) -> list[str]:
    """``key=value`` for every known value; behind a comma, the next value of a sweep."""
    before, comma, last = value.rpartition(",")
    return [
        f"{key}={before}{comma}{known}"
        for known in starting(last, known_values(command, key, config_dir))
    ]


def known_values(command: str, key: str, config_dir: str | None) -> Sequence[str]:
    if key in groups_of(command):
        return choices_of(key, config_dir)
    if key in CHOICES:
        return CHOICES[key]
    node, dot, name = key.rpartition(".")
    hints = hints_of(command, node) if dot else typing.get_type_hints(ROOTS[command])
    return ("true", "false") if hints.get(name) is bool else ()


def config_dir_of(words: Sequence[str]) -> str | None:
    """What ``--config-dir`` says on this line."""
    for word, following in zip(words, [*words[1:], ""], strict=True):
        if word.startswith("--config-dir="):
            return word.partition("=")[2]
        if word == "--config-dir":
            return following
    return None


def is_path_begun(word: str) -> bool:
    """Whether a file's name begins with ``word``: the inputs of predict come before its keys."""
    folder, _, name = word.rpartition("/")
    if folder or word.startswith(("/", "~")):
        return True
    return any(entry.name.startswith(name) for entry in Path().iterdir())
