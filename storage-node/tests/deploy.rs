//! The files for operators (`deploy/`) against the program: each command line in them parses, each flag is one of its command's, and
//! each file and folder that they use is there or is made by an earlier line.
//!
//! It runs twice: alone, for what the default build has, and as a part of `validators_cli`, for the commands of feature `bft` as well.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};

use clap::{CommandFactory, Parser};
use storage_node::cli::Cli;
use storage_node::config::Config;

/// Commands of `chain` that the default build lacks.
const ENGINE: [&str; 7] = [
    "card",
    "init",
    "invite",
    "join",
    "relay",
    "run",
    "validators",
];

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("deploy")
}

fn text(name: &str) -> String {
    fs::read_to_string(folder().join(name)).expect("a deploy file")
}

/// One simple command of a shell line.
#[derive(Debug, PartialEq, Eq)]
struct Command {
    words: Vec<String>,
    /// The file that takes its output.
    writes: Option<String>,
}

/// The simple commands of a shell text, without comments, prompts such as `a$ ` and loops' words.
fn commands(text: &str) -> Vec<Command> {
    let lines = text.lines().map(|line| {
        let line = line.split(" #").next().unwrap_or_default().trim();
        match line.split_once("$ ") {
            Some((host, rest)) if host.len() <= 1 => rest,
            _ => line,
        }
    });
    let parts = lines.flat_map(|line| line.split("&&").flat_map(|part| part.split([';', '|'])));
    let simple = parts.map(|part| {
        let mut words: Vec<String> = part.split_whitespace().map(str::to_owned).collect();
        words.retain(|word| word != "do");
        let arrow = words.iter().position(|word| word == ">");
        let writes = arrow.map(|at| words.split_off(at)[1].clone());
        Command { words, writes }
    });
    simple.filter(|command| !command.words.is_empty()).collect()
}

/// What follows `holdfast` where a command runs it, itself or in a container.
fn arguments(words: &[String]) -> Option<&[String]> {
    let begin = match words {
        [first, ..] if first == "holdfast" => 0,
        // The image's name; a volume's may end like it.
        [docker, run, ..] if docker == "docker" && run == "run" => {
            words.iter().position(|word| word == "holdfast")?
        }
        _ => return None,
    };
    Some(&words[begin + 1..])
}

/// Whether the program that is tested lacks the command.
fn is_lacking(words: &[String]) -> bool {
    let command = words.iter().position(|word| word == "chain");
    let name = command.and_then(|at| words.get(at + 1));
    !cfg!(feature = "bft") && name.is_some_and(|name| ENGINE.contains(&name.as_str()))
}

/// Panics if the program does not take these words; false if it lacks the command.
fn takes(words: &[String]) -> bool {
    if is_lacking(words) {
        return false;
    }
    let line = std::iter::once("holdfast").chain(words.iter().map(String::as_str));
    if let Err(error) = Cli::try_parse_from(line) {
        panic!("`holdfast {}`: {error}", words.join(" "));
    }
    true
}

/// Panics unless these words, of which some may be left out, name a command and options of it.
fn names(words: &[String]) -> bool {
    if is_lacking(words) {
        return false;
    }
    let shown = words.join(" ");
    let mut tree = Cli::command();
    tree.build();
    let mut command = &tree;
    for (at, word) in words.iter().enumerate() {
        if let Some(name) = word.strip_prefix("--") {
            let mut options = command.get_arguments();
            let option = options.find(|option| option.get_long() == Some(name));
            let option = option.unwrap_or_else(|| panic!("`{shown}`: there is no --{name}"));
            let values = option.get_possible_values();
            let is_value = |given: &String| values.iter().any(|value| value.matches(given, false));
            let takes_one_of = option.get_action().takes_values() && !values.is_empty();
            assert!(
                !takes_one_of || words.get(at + 1).is_some_and(is_value),
                "`{shown}`: --{name}"
            );
        } else if let Some(sub) = command.find_subcommand(word) {
            command = sub;
        }
    }
    assert!(!std::ptr::eq(command, &tree), "`{shown}` names no command");
    true
}

/// The shell blocks of a Markdown text, and the pieces of code in its sentences.
fn code(markdown: &str) -> (Vec<&str>, Vec<Vec<String>>) {
    let parts: Vec<&str> = markdown.split("```").collect();
    assert!(parts.len() % 2 == 1, "a block does not end");
    let blocks = parts.iter().copied().skip(1).step_by(2);
    let spans = parts.iter().step_by(2).flat_map(|prose| {
        let spans = prose.split('`').skip(1).step_by(2);
        spans.map(|span| {
            span.split_whitespace()
                .map(str::to_owned)
                .collect::<Vec<_>>()
        })
    });
    (
        blocks.collect(),
        spans.filter(|span| !span.is_empty()).collect(),
    )
}

#[test]
fn every_command_of_the_readme_parses() {
    let readme = text("README.md");
    let (blocks, spans) = code(&readme);
    let shell = commands(&blocks.join("\n"));
    let lines = shell.iter().filter_map(|command| arguments(&command.words));
    let mut taken = lines.filter(|words| takes(words)).count();
    let tops: BTreeSet<String> = Cli::command()
        .get_subcommands()
        .map(|command| command.get_name().to_owned())
        .collect();
    let mut tree = Cli::command();
    tree.build();
    let mut options = BTreeSet::new();
    let mut waiting = vec![&tree];
    while let Some(command) = waiting.pop() {
        options.extend(
            command
                .get_arguments()
                .filter_map(|option| option.get_long()),
        );
        waiting.extend(command.get_subcommands());
    }
    for span in &spans {
        let whole = commands(&span.join(" "));
        if whole
            .iter()
            .any(|command| arguments(&command.words).is_some())
        {
            let lines = whole.iter().filter_map(|command| arguments(&command.words));
            taken += lines.filter(|words| takes(words)).count();
        } else if tops.contains(&span[0]) {
            taken += usize::from(names(span));
        } else if let Some(name) = span[0].strip_prefix("--") {
            let is_known = options.contains(name) || !cfg!(feature = "bft");
            assert!(is_known, "no command has --{name}");
        }
    }
    let least = if cfg!(feature = "bft") { 34 } else { 9 };
    assert!(taken >= least, "only {taken} command lines were found");
    if cfg!(feature = "bft") {
        let chain = tree.find_subcommand("chain").expect("a command");
        assert!(
            ENGINE
                .iter()
                .all(|name| chain.find_subcommand(name).is_some())
        );
    }
}

/// Files by the name that they have at the host of the line: what a container sees at the root is in its folder.
fn plain(name: &str) -> String {
    let name = name.trim_start_matches('/');
    // `b.card` is made at b as `a.card` is at a.
    match name.split_once('.') {
        Some((host, rest)) if host.len() == 1 => format!("a.{rest}"),
        _ => name.to_owned(),
    }
}

#[test]
fn every_file_that_the_readme_uses_was_made() {
    let readme = text("README.md");
    let (blocks, spans) = code(&readme);
    let mut shell = commands(&blocks.join("\n"));
    shell.extend(spans.iter().flat_map(|span| commands(&span.join(" "))));
    let mut made: BTreeSet<String> = BTreeSet::new();
    let mut used = 0;
    for Command { words, writes } in &shell {
        let after = |option: &str| {
            let at = words.iter().position(|word| word == option)?;
            words.get(at + 1).map(|name| plain(name))
        };
        let arguments = arguments(words).unwrap_or_default();
        let does = |name: &str| arguments.windows(2).any(|pair| pair == ["chain", name]);
        let mut uses: Vec<String> = ["--validators", "--approvals", "--beacon-key", "--network"]
            .iter()
            .filter_map(|option| after(option))
            .collect();
        match words[0].as_str() {
            "cat" => uses.extend(words[1..].iter().map(|name| plain(name))),
            "scp" => {
                let (to, from) = words[1..].split_last().expect("a place to copy to");
                uses.extend(from.iter().map(|name| plain(name)));
                let (_, folder) = to.split_once(':').expect("another host");
                assert!(
                    made.contains(folder.trim_end_matches('/')),
                    "{to} is not made"
                );
                let copy = |name: &String| Some(format!("{folder}{}", name.rsplit('/').next()?));
                made.extend(from.iter().filter_map(copy));
            }
            "mkdir" => made.extend(words[1..].iter().cloned()),
            _ => {}
        }
        if does("join") {
            uses.extend(after("join"));
        }
        // `devnet up --validators 4` names a number.
        uses.retain(|name| name.parse::<u16>().is_err());
        for name in &uses {
            assert!(
                made.contains(name),
                "{words:?} uses {name}, which no line before it makes"
            );
        }
        used += uses.len();
        if let Some(out) = after("--out") {
            made.insert(format!("{out}/network.json"));
            if does("init") {
                made.insert(format!("{out}/beacon.key"));
            }
        }
        made.extend(writes.as_deref().map(plain));
    }
    assert!(used >= 20, "only {used} files are used");
    // The containers' homes.
    for service in services() {
        let home = format!("net/{}", service.replace(char::is_numeric, "$n"));
        assert!(made.contains(&home), "{home} is not made");
    }
    let named = readme
        .split('`')
        .filter(|word| word.ends_with(".service") || *word == "compose.yaml");
    for name in named {
        assert!(folder().join(name).is_file(), "the README names {name}");
    }
    let build = "cargo build --release --locked -p storage-node --features bft --bin holdfast";
    assert!(readme.contains(build) && text("Dockerfile").contains(build));
}

/// What a unit sets, without its comments; a name that is set twice has its last value.
fn unit(name: &str) -> BTreeMap<String, String> {
    let text = text(name);
    let lines = text.lines().filter(|line| !line.starts_with(['#', '[']));
    let set = lines.filter_map(|line| line.split_once('='));
    set.map(|(name, value)| (name.to_owned(), value.to_owned()))
        .collect()
}

/// Who follows the README with systemd makes keys where the unit looks for them.
#[test]
fn the_readmes_shell_has_the_units_user_and_folders() {
    let unit = unit("holdfast-validator.service");
    let readme = text("README.md");
    let shell = commands(&code(&readme).0.join("\n"));
    let mut shells = shell
        .iter()
        .filter(|c| c.words.last().is_some_and(|w| w == "bash"));
    let words = &shells.next().expect("a shell for the unit's user").words;
    assert_eq!(words[..4], ["sudo", "-u", &unit["User"], "env"]);
    let settings = words[4..].join(" ");
    assert_eq!(folders_of(&settings), folders_of(&unit["Environment"]));
    let home = format!("HOME=/var/lib/{}", unit["StateDirectory"]);
    assert!(words.contains(&home), "`cd` goes to the unit's home");
}

/// Words of a unit's command.
fn start(unit: &BTreeMap<String, String>) -> Vec<String> {
    unit["ExecStart"]
        .split_whitespace()
        .map(str::to_owned)
        .collect()
}

fn value_of(words: &[String], option: &str) -> String {
    let at = words.iter().position(|word| word == option);
    at.and_then(|at| words.get(at + 1))
        .expect("the option is there")
        .clone()
}

/// The home and cache that the program takes from these settings, `NAME=VALUE` each.
fn folders_of(settings: &str) -> (PathBuf, PathBuf) {
    let set: BTreeMap<&str, &str> = settings
        .split_whitespace()
        .filter_map(|setting| setting.split_once('='))
        .collect();
    let env = |name: &str| set.get(name).map(OsString::from);
    let config = Config::resolve(None, None, env).expect("a platform");
    (config.home.root().to_owned(), config.params_dir)
}

#[test]
fn the_units_run_commands_that_exist_in_folders_that_exist() {
    let validator = text("holdfast-validator.service");
    let units = ["holdfast-validator.service", "holdfast-provider.service"];
    for name in units {
        let unit = unit(name);
        let words = start(&unit);
        takes(&words[1..]);
        // Where the comment of the first unit installs it.
        let program = Path::new(&words[0]);
        let place = program.parent().expect("a folder").display().to_string();
        assert!(validator.contains(&format!("install -m 755 holdfast {place}/")));
        let state = Path::new("/var/lib").join(&unit["StateDirectory"]);
        let (home, params) = folders_of(&unit["Environment"]);
        assert_eq!(home, state, "{name}: only its state may be written to");
        assert!(params.starts_with(&state), "{name}");
        let user = format!("useradd --system --home-dir {}", state.display());
        assert!(
            validator.contains(&user) && validator.contains(&unit["User"]),
            "{name}"
        );
        let after = unit["After"]
            .split_whitespace()
            .filter(|word| word.starts_with("holdfast"));
        after.for_each(|other| assert!(folder().join(other).is_file(), "{name}: {other}"));
    }
    assert!(start(&unit(units[0])).contains(&"run".to_owned()));
    let rpc = value_of(&start(&unit(units[0])), "--rpc");
    assert_eq!(
        value_of(&start(&unit(units[1])), "--chain"),
        format!("ws://{rpc}")
    );
    assert!(text("README.md").contains(&format!("--chain ws://{rpc}")));
}

/// Names of the compose file's services.
fn services() -> Vec<String> {
    let compose = text("compose.yaml");
    let (_, listed) = compose.split_once("\nservices:\n").expect("services");
    let names = listed
        .lines()
        .filter_map(|line| line.strip_prefix("  ")?.strip_suffix(':'));
    let names: Vec<String> = names
        .filter(|n| !n.starts_with(' '))
        .map(str::to_owned)
        .collect();
    assert_eq!(names.len(), 4, "{names:?}");
    names
}

#[test]
fn the_containers_run_what_their_image_has_at_the_ports_of_their_cards() {
    let (compose, image) = (text("compose.yaml"), text("Dockerfile"));
    let line = |text: &str, key: &str| {
        let found = text.lines().find_map(|line| line.trim().strip_prefix(key));
        found
            .unwrap_or_else(|| panic!("no {key}"))
            .trim()
            .to_owned()
    };
    let words: Vec<String> = serde_json::from_str(&line(&compose, "command:")).expect("a list");
    takes(&words);
    assert_eq!(line(&image, "ENTRYPOINT"), "[\"holdfast\"]");
    assert!(words.windows(2).any(|pair| pair == ["chain", "run"]));

    let (home, params) = folders_of(&line(&image, "ENV"));
    assert_eq!(home, Path::new(&line(&image, "VOLUME")));
    assert!(params.starts_with(&home) && image.contains(&format!("--home-dir {}", home.display())));
    for service in services() {
        let volume = format!("\"./net/{service}:{}\"", home.display());
        assert!(compose.contains(&volume), "{service} has no {volume}");
    }
    let root = folder().join(line(&compose, "context:"));
    assert!(
        root.join("Cargo.toml").is_file(),
        "the image is built from the repository"
    );
    let file = root.join(line(&compose, "dockerfile:"));
    assert_eq!(fs::read_to_string(file).expect("the image's file"), image);

    let port = |option: &str| {
        let value = value_of(&words, option);
        let digits = value.rsplit([':', '/']).next().expect("a part");
        digits.parse::<u16>().expect("a port")
    };
    let (rpc, listen) = (port("--rpc"), port("--listen"));
    assert!(line(&compose, "ports:").contains(&format!(":{rpc}:{rpc}")));
    // A card without `--gossip` names the next port.
    assert_eq!(port("--gossip-listen"), listen + 1);
    assert!(text("README.md").contains(&format!("/dns4/v$n/tcp/{listen};")));
}

#[test]
fn commands_are_found_behind_prompts_loops_and_containers() {
    let shell = "a$ holdfast -q chain status > x # and c, d; y\n$ for n in 1; do docker run --rm -v $PWD/a:/var/lib/holdfast holdfast wallet new; done > z\n$ cd a && holdfast ls | cat";
    let found = commands(shell);
    let lines: Vec<String> = found
        .iter()
        .filter_map(|command| Some(arguments(&command.words)?.join(" ")))
        .collect();
    assert_eq!(lines, ["-q chain status", "wallet new", "ls"]);
    let written: Vec<_> = found
        .iter()
        .filter_map(|command| command.writes.as_deref())
        .collect();
    assert_eq!(written, ["x", "z"]);
    for bad in [&["ls", "--no-such-flag"][..], &["no-such-command"]] {
        let words: Vec<String> = bad.iter().map(|word| (*word).to_owned()).collect();
        assert!(
            std::panic::catch_unwind(|| takes(&words)).is_err(),
            "{bad:?}"
        );
        assert!(
            std::panic::catch_unwind(|| names(&words)).is_err(),
            "{bad:?}"
        );
    }
}
