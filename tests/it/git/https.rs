//! lighttpd with `git http-backend` and an authority of the test's own, on loopback; for tests that need an HTTPS server.
//!
//! Deliberately absent: what is asked of it.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use egret::git::access::{Access, ClientCertificate};
use egret::git::credentials::Credentials;

use super::crooked::{Serving, free_port, serving};
use super::fixture::{Origin, PROGRAM};

/// What a server asks for beside the password.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Demand {
    Nothing,
    /// A certificate by the authority in `clients.pem`.
    Certificate,
    /// No TLS at all: for a relay before it, which spoils what it says.
    Plain,
}

/// A lighttpd that lets `ada` in with `hunter2`, and `token` with `ghp_1`.
pub(crate) struct Https {
    _lighttpd: Serving,
    pub(crate) port: u16,
    pub(crate) folder: PathBuf,
    pub(crate) source: String,
}

/// The name that the tests ask for.
pub(crate) const LOOPBACK: &str = "subjectAltName=IP:127.0.0.1";
/// From when until when a certificate is good, as openssl-ca(1) wants it.
pub(crate) type Valid = (&'static str, &'static str);
pub(crate) const GOOD: Valid = ("20200101000000Z", "20491231235959Z");
pub(crate) const RAN_OUT: Valid = ("20200101000000Z", "20200102000000Z");

const KEY: &str = "-newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes";

fn openssl(folder: &Path, arguments: &str) {
    let words = arguments.split(' ');
    let output = Command::new("openssl").args(words).current_dir(folder).output().expect("openssl is installed");
    assert!(output.status.success(), "{arguments}: {}", String::from_utf8_lossy(&output.stderr));
}

/// Makes `name.pem` and `name.key`, with the authority's blessing.
fn issue(folder: &Path, authority: &str, name: &str, extension: &str, valid: Valid) {
    fs::write(folder.join("index"), "").expect("a file");
    fs::write(folder.join("extension"), extension).expect("a file");
    let config = "[ca]\ndefault_ca = one\n[one]\ndatabase = index\nnew_certs_dir = .\ndefault_md = sha256\n\
                  rand_serial = yes\npolicy = any\n[any]\ncommonName = supplied\n";
    fs::write(folder.join("authority"), config).expect("a file");
    openssl(folder, &format!("req {KEY} -keyout {name}.key.new -out {name}.csr -subj /CN={name}"));
    openssl(
        folder,
        &format!(
            "ca -config authority -batch -notext -cert {authority}.pem -keyfile {authority}.key -startdate {} -enddate {} \
             -extfile extension -in {name}.csr -out {name}.pem.new",
            valid.0, valid.1
        ),
    );
    for file in [format!("{name}.key"), format!("{name}.pem")] {
        fs::rename(folder.join(format!("{file}.new")), folder.join(file)).expect("it is put in place");
    }
}

impl Https {
    pub(crate) fn start(origin: &Origin) -> Self {
        Self::with(origin, Demand::Nothing, LOOPBACK, GOOD)
    }

    /// With a certificate for these names, that is valid then.
    pub(crate) fn with(origin: &Origin, demand: Demand, names: &str, valid: Valid) -> Self {
        let folder = origin.path().join("https");
        fs::create_dir_all(&folder).expect("a folder");
        for (file, name) in [("ca", "authority"), ("clients", "clients"), ("others", "others")] {
            openssl(&folder, &format!("req -x509 {KEY} -days 2 -keyout {file}.key -out {file}.pem -subj /CN={name}"));
        }
        issue(&folder, "ca", "server", names, valid);
        // lighttpd looks for what is missing of a chain among the clients' authorities, and there is nothing of it.
        let chain = ["server.pem", "ca.pem"].map(|name| fs::read_to_string(folder.join(name)).expect("a certificate"));
        fs::write(folder.join("server.pem"), chain.concat()).expect("a file");
        fs::write(folder.join("users"), "ada:hunter2\ntoken:ghp_1\n").expect("a file");
        let (port, shown) = (free_port(), folder.display());
        let backend = Command::new("git").arg("--exec-path").output().expect("git is installed").stdout;
        let backend = format!("{}/git-http-backend", String::from_utf8(backend).expect("UTF-8").trim_end());
        let tls = match demand {
            Demand::Plain => String::new(),
            _ => format!(
                "ssl.engine = \"enable\"\nssl.pemfile = \"{shown}/server.pem\"\nssl.privkey = \"{shown}/server.key\"\n"
            ),
        };
        let clients = match demand {
            Demand::Certificate => format!(
                "ssl.verifyclient.activate = \"enable\"\nssl.verifyclient.enforce = \"enable\"\n\
                 ssl.verifyclient.ca-file = \"{shown}/clients.pem\"\n"
            ),
            _ => String::new(),
        };
        let config = format!(
            "server.document-root = \"{0}\"\nserver.bind = \"127.0.0.1\"\nserver.port = {port}\n\
             server.errorlog = \"{shown}/log\"\n\
             server.modules = (\"mod_alias\", \"mod_setenv\", \"mod_auth\", \"mod_authn_file\", \"mod_cgi\", \"mod_openssl\")\n\
             {tls}{clients}\
             auth.backend = \"plain\"\nauth.backend.plain.userfile = \"{shown}/users\"\n\
             auth.require = (\"/\" => (\"method\" => \"basic\", \"realm\" => \"git\", \"require\" => \"valid-user\"))\n\
             alias.url = (\"/git\" => \"{backend}\")\ncgi.assign = (\"\" => \"\")\n\
             setenv.set-environment = (\"GIT_PROJECT_ROOT\" => \"{0}\", \"GIT_HTTP_EXPORT_ALL\" => \"1\", \
             \"GIT_CONFIG_GLOBAL\" => \"/dev/null\", \"PATH\" => \"/usr/local/bin:/usr/bin:/bin\")\n",
            origin.path().display()
        );
        fs::write(folder.join("config"), config).expect("a file");
        origin.in_bare(&["config", "http.receivepack", "true"]);
        let mut command = Command::new("lighttpd");
        command.args(["-D", "-f"]).arg(folder.join("config")).stdout(Stdio::null()).stderr(Stdio::null());
        let path = std::env::var("PATH").unwrap_or_default();
        command.env("PATH", format!("{path}:/usr/sbin"));
        let scheme = if demand == Demand::Plain { "http" } else { "https" };
        let source = format!("{scheme}://127.0.0.1:{port}/git/policies.git");
        Self { _lighttpd: serving(&mut command, port), port, folder, source }
    }

    pub(crate) fn access(&self, user: Option<&str>, password: &str) -> Access {
        let file = self.folder.join("password");
        fs::write(&file, format!("{password}\n")).expect("a file");
        let credentials = Credentials { user: user.map(str::to_owned), password: Some(file), ..Credentials::default() };
        Access { program: PROGRAM.into(), ca_file: Some(self.folder.join("ca.pem")), ..credentials.into() }
    }

    /// As somebody whom the server lets in.
    pub(crate) fn ada(&self) -> Access {
        self.access(Some("ada"), "hunter2")
    }

    /// Makes `client.pem` and its key: by one of the authorities, and valid then.
    pub(crate) fn client_certificate(&self, authority: &str, valid: Valid) -> ClientCertificate {
        issue(&self.folder, authority, "client", "extendedKeyUsage=clientAuth", valid);
        ClientCertificate { certificate: self.folder.join("client.pem"), key: self.folder.join("client.key") }
    }

    pub(crate) fn log(&self) -> String {
        fs::read_to_string(self.folder.join("log")).unwrap_or_default()
    }
}
