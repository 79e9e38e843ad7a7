//! A node is set up by `larder install` and put back by `larder uninstall`, and real runtimes follow
//! without a restart (P12).

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use larder_tests::node::larder_program;
use larder_tests::real::{Containerd, Podman, Release, Requests, Skopeo, succeeded};

use crate::image::Layout;
use crate::setup::{Setup, refused, with_each_containerd};

with_each_containerd!([
    an_init_container_sets_a_node_up_and_leaves_it_as_it_was,
    a_stock_containerd_reads_the_files_once_the_lines_that_install_says_are_put,
    a_list_of_directories_is_warned_of_with_the_lines_that_mend_it,
]);

const LAYER: usize = 3_000_000;

/// The output of one run of larder.
#[derive(Debug)]
pub(crate) struct Said {
    pub(crate) code: Option<i32>,
    pub(crate) out: String,
    pub(crate) complaints: String,
}

fn run(command: &mut Command) -> Result<Said> {
    let output = command.output()?;
    Ok(Said {
        code: output.status.code(),
        out: String::from_utf8(output.stdout)?,
        complaints: String::from_utf8(output.stderr)?,
    })
}

pub(crate) fn larder<S: AsRef<OsStr>>(arguments: &[S]) -> Result<Said> {
    run(Command::new(larder_program()).args(arguments))
}

/// Kind, mode, owner, modification time and content of everything below `dir`; directories have no time here.
pub(crate) type Tree = BTreeMap<PathBuf, (u32, u32, u32, Option<i64>, Vec<u8>)>;

pub(crate) fn tree(dir: &Path) -> Result<Tree> {
    let mut tree = Tree::new();
    let mut rest = vec![dir.to_owned()];
    while let Some(path) = rest.pop() {
        let about = fs::symlink_metadata(&path)?;
        let mut content = Vec::new();
        if about.is_dir() {
            for entry in fs::read_dir(&path)? {
                rest.push(entry?.path());
            }
        } else {
            content = fs::read(&path)?;
        }
        let changed = (!about.is_dir()).then(|| about.mtime_nsec() + about.mtime() * 1_000_000_000);
        let entry = (about.mode(), about.uid(), about.gid(), changed, content);
        tree.insert(path, entry);
    }
    Ok(tree)
}

/// One containerd that stands for a node, with larder in front of the registry.
struct Target {
    setup: Setup,
    containerd: Containerd,
}

impl Target {
    async fn new(containerd: Containerd) -> Result<Self> {
        Ok(Self {
            setup: Setup::by_address(Layout::single(LAYER)?).await?,
            containerd,
        })
    }

    /// `larder install` on the node itself.
    fn install(&self) -> Result<Said> {
        let mut arguments: Vec<String> = vec!["install".into()];
        arguments.extend(self.paths()?);
        arguments.extend([
            "--containerd-config".into(),
            text(&self.containerd.config_file())?,
            "--address".into(),
            format!("http://{}", self.setup.mirror.addr),
        ]);
        larder(&arguments)
    }

    fn paths(&self) -> Result<[String; 2]> {
        Ok([
            "--containerd-certs-dir".into(),
            text(&self.containerd.hosts_dir())?,
        ])
    }

    /// larder as in an init container: root without capabilities, in a mount namespace of its own. Of the node it sees
    /// certs.d, and the directory of containerd's configuration read-only, both below `root`.
    fn larder_in_container(&self, root: &Path, arguments: &[String]) -> Result<Said> {
        let mount = r#"mkdir -p "$1$2"
            mount --bind "$2" "$1$2"
            mount -o remount,bind,ro "$1$2"
            mount --bind "$2/certs.d" "$1$2/certs.d"
            shift 2
            exec setpriv --no-new-privs --inh-caps=-all --bounding-set=-all "$@""#;
        let config = self.containerd.config_file();
        let dir = config.parent().context("no directory")?;
        run(Command::new("unshare")
            .args(["--mount", "sh", "-ec", mount, "sh"])
            .arg(root)
            .arg(dir)
            .arg(larder_program())
            .args(arguments))
    }

    /// Pulls the image anew by CRI, and says whether containerd sent the registry any request itself.
    async fn pulls_directly(&self) -> Result<bool> {
        let cri = self.containerd.cri().await?;
        let before = self.setup.upstream_requests().await?;
        let id = cri.pull(&self.setup.by_tag()).await?;
        ensure!(id == self.setup.image.native()?.config, "another image");
        self.setup
            .check_content(&self.containerd, self.setup.image.native()?)?;
        cri.remove_image(&id).await?;
        let asked = self.setup.upstream_requests().await?.since(&before);
        Ok(!asked.from_agent("containerd/").is_empty())
    }
}

pub(crate) fn text(path: &Path) -> Result<String> {
    Ok(path.to_str().context("not UTF-8")?.to_owned())
}

/// The lines that a warning tells the operator to put into containerd's configuration.
fn lines_to_put(complaints: &str) -> Result<&str> {
    let (_, lines) = complaints
        .split_once("restart containerd once:\n")
        .with_context(|| format!("no lines to put in {complaints:?}"))?;
    Ok(lines)
}

async fn an_init_container_sets_a_node_up_and_leaves_it_as_it_was(release: Release) -> Result<()> {
    let mut node = Target::new(Containerd::start(release).await?).await?;
    let registry = node.setup.registry.host();
    // One registry has a hosts file already, written without larder and readable by its owner only.
    node.containerd.write_hosts(
        &registry,
        &format!("# ours\nserver = \"{}\"", node.setup.registry.url()),
    )?;
    let certs = node.containerd.hosts_dir();
    let file = certs.join(&registry).join("hosts.toml");
    fs::set_permissions(&file, fs::Permissions::from_mode(0o640))?;
    let before = tree(&certs)?;
    assert!(node.pulls_directly().await?);

    let root = tempfile::Builder::new().prefix("node-root-").tempdir()?;
    let mut arguments = vec![
        "install".into(),
        "--node-root".into(),
        text(root.path())?,
        "--containerd-config".into(),
        text(&node.containerd.config_file())?,
    ];
    arguments.extend(node.paths()?);
    arguments.extend(["--exact".into(), "--registry=*".into()]);
    arguments.push(format!("--registry={registry}"));
    arguments.push(format!("--address=http://{}", node.setup.mirror.addr));
    for _ in 0..2 {
        let said = node.larder_in_container(root.path(), &arguments)?;
        assert_eq!(
            (said.code, said.complaints.as_str()),
            (Some(0), ""),
            "{said:?}"
        );
    }
    assert!(certs.join("_default/hosts.toml").exists());
    assert!(!node.pulls_directly().await?, "larder serves the node");

    arguments.extend(["--dry-run".into(), "--probe=30".into()]);
    let said = node.larder_in_container(root.path(), &arguments)?;
    assert!(said.out.contains("larder answers at http://"), "{said:?}");
    node.setup.mirror.kill();
    arguments.pop();
    arguments.push("--probe=1".into());
    let said = node.larder_in_container(root.path(), &arguments)?;
    assert!(
        said.complaints
            .contains("larder does not answer at http://")
            && said.complaints.contains("Connection refused"),
        "{said:?}"
    );
    assert_eq!(said.code, Some(0));
    let direct = tokio::time::timeout(Duration::from_mins(1), node.pulls_directly());
    assert!(direct.await??, "the registry is still there");
    // larder does not mistake another program at that address for itself.
    arguments.retain(|one| !one.starts_with("--address=") && !one.starts_with("--probe"));
    arguments.push(format!("--address={}", node.setup.registry.url()));
    arguments.push("--probe=30".into());
    let said = node.larder_in_container(root.path(), &arguments)?;
    assert!(
        said.complaints
            .contains("answers with 200, but it is not larder"),
        "{said:?}"
    );

    let mut arguments = vec!["uninstall".into(), "--node-root".into(), text(root.path())?];
    arguments.extend(node.paths()?);
    for _ in 0..2 {
        let said = node.larder_in_container(root.path(), &arguments)?;
        assert_eq!(
            (said.code, said.complaints.as_str()),
            (Some(0), ""),
            "{said:?}"
        );
        assert_eq!(tree(&certs)?, before);
    }
    assert!(node.pulls_directly().await?);
    Ok(())
}

async fn a_stock_containerd_reads_the_files_once_the_lines_that_install_says_are_put(
    release: Release,
) -> Result<()> {
    let mut node = Target::new(Containerd::start_stock(release).await?).await?;
    let config = node.containerd.config_file();
    let stock = fs::read_to_string(&config)?;
    let said = node.install()?;
    assert_eq!(said.code, Some(0), "{said:?}");
    assert!(said.complaints.contains("sets no config_path"), "{said:?}");
    assert!(!said.out.contains("warning"), "{said:?}");
    assert_eq!(fs::read_to_string(&config)?, stock, "never written");
    assert!(node.pulls_directly().await?, "it reads no hosts.toml");

    let lines = lines_to_put(&said.complaints)?;
    fs::write(&config, format!("{stock}\n{lines}"))?;
    node.containerd.restart().await?;
    assert!(!node.pulls_directly().await?);
    let said = node.install()?;
    assert_eq!(
        (said.code, said.complaints.as_str()),
        (Some(0), ""),
        "{said:?}"
    );
    Ok(())
}

/// Whether this containerd ignores a list of hosts: 2.1 and later do, where the transfer service pulls.
fn is_deaf_to_lists(release: Release) -> Result<bool> {
    if release == Release::TwoLocal {
        return Ok(false);
    }
    let output = release.command("containerd")?.arg("--version").output()?;
    let text = String::from_utf8(output.stdout)?;
    let version = text
        .split_whitespace()
        .map(|word| word.trim_start_matches('v'))
        .find(|word| word.starts_with(|first: char| first.is_ascii_digit()))
        .with_context(|| format!("no version in {text:?}"))?;
    let mut numbers = version.split(['.', '~', '+', '-']).map(str::parse::<u32>);
    let major = numbers.next().context("no major version")??;
    let minor = numbers.next().context("no minor version")??;
    Ok((major, minor) >= (2, 1))
}

async fn a_list_of_directories_is_warned_of_with_the_lines_that_mend_it(
    release: Release,
) -> Result<()> {
    let mut node = Target::new(Containerd::start_stock(release).await?).await?;
    let config = node.containerd.config_file();
    let stock = fs::read_to_string(&config)?;
    let certs = node.containerd.hosts_dir();
    let other = certs.with_file_name("docker-certs.d");
    let list = format!("{}:{}", certs.display(), other.display());
    let section = release.registry_section();
    fs::write(
        &config,
        format!("{stock}\n[{section}]\n  config_path = \"{list}\"\n"),
    )?;
    node.containerd.restart().await?;

    let said = node.install()?;
    assert_eq!(said.code, Some(0), "{said:?}");
    assert!(
        said.complaints.contains(&format!("to the list {list:?}")),
        "{said:?}"
    );
    assert_eq!(node.pulls_directly().await?, is_deaf_to_lists(release)?);

    let lines = lines_to_put(&said.complaints)?;
    fs::write(&config, format!("{stock}\n{lines}"))?;
    node.containerd.restart().await?;
    assert!(!node.pulls_directly().await?);
    let said = node.install()?;
    assert_eq!(
        (said.code, said.complaints.as_str()),
        (Some(0), ""),
        "{said:?}"
    );
    Ok(())
}

/// podman and skopeo with drop-in directories of their own.
struct Copiers {
    podman: Podman,
    skopeo: Skopeo,
}

impl Copiers {
    /// Gets the image anew with both, and gives the requests that reached the registry without larder.
    async fn get(&self, setup: &Setup) -> Result<Requests> {
        let before = setup.upstream_requests().await?;
        let image = setup.by_tag();
        // The registry speaks plain HTTP, which both clients try there only with an option.
        let plain = ["pull", "--quiet", "--tls-verify=false", &image];
        succeeded(&self.podman.podman(&plain).await?)?;
        self.podman.remove(&image).await?;
        let copy = self
            .skopeo
            .copy_with(&image, &["--src-tls-verify=false"])
            .await?;
        ensure!(copy.join("manifest.json").exists(), "nothing was copied");
        let asked = setup.upstream_requests().await?.since(&before);
        Ok(asked.only(|one| !one.agent.starts_with("larder/")))
    }
}

/// podman and skopeo read registries.conf.d with the same library as CRI-O.
#[tokio::test]
async fn the_drop_in_leads_podman_and_skopeo_to_larder_and_past_it_when_it_is_gone() -> Result<()> {
    if refused("the_drop_in_leads_podman_and_skopeo_to_larder_and_past_it_when_it_is_gone") {
        return Ok(());
    }
    let mut setup = Setup::by_alias(Layout::single(LAYER)?, "near").await?;
    let copiers = Copiers {
        podman: Podman::without_mirrors()?,
        skopeo: Skopeo::without_mirrors()?,
    };
    let drop_ins = [copiers.podman.drop_ins(), copiers.skopeo.drop_ins()];
    let mut before = Vec::new();
    for dir in &drop_ins {
        let theirs = "[[registry]]\nlocation = \"corp.example\"\n";
        fs::write(dir.join("50-corp.conf"), theirs)?;
        before.push(tree(dir)?);
        let said = larder(&[
            "install",
            "--preset=crio",
            "--crio-conf-dir",
            &text(dir)?,
            &format!("--registry={}=near", setup.registry.host()),
            "--registry=docker.io",
            &format!("--address=http://{}", setup.mirror.addr),
        ])?;
        assert_eq!(said.code, Some(0), "{said:?}");
        assert!(dir.join("larder.conf").exists());
    }
    let direct = copiers.get(&setup).await?;
    assert!(direct.is_empty(), "{direct:?}");

    setup.mirror.kill();
    let direct = copiers.get(&setup).await?;
    assert!(!direct.content_gets().is_empty(), "they went past larder");

    for (dir, before) in drop_ins.iter().zip(before) {
        let dir_text = text(dir)?;
        let said = larder(&["uninstall", "--preset=crio", "--crio-conf-dir", &dir_text])?;
        assert_eq!(said.code, Some(0), "{said:?}");
        assert_eq!(tree(dir)?, before);
    }
    let direct = copiers.get(&setup).await?;
    assert!(!direct.content_gets().is_empty(), "{direct:?}");
    Ok(())
}
