//! Private keys in files, as ssh-keygen and OpenSSL write them: RSA, ECDSA (P-256, P-384), Ed25519. Keys with a passphrase are
//! refused, as buildx refuses them: nobody could be asked for it.

use base64::Engine as _;
use ring::rand::SystemRandom;
use ring::rsa::{KeyPairComponents, PublicKeyComponents};
use ring::signature::{
    ECDSA_P256_SHA256_FIXED_SIGNING, ECDSA_P384_SHA384_FIXED_SIGNING, EcdsaKeyPair, Ed25519KeyPair, KeyPair,
    RSA_PKCS1_SHA256, RSA_PKCS1_SHA512, RsaKeyPair,
};

use super::der;
use super::wire::{Reader, Writer, without_zeros};

/// Flags of a request to sign with an RSA key. Without one SHA-1 is asked for, which nobody should accept.
const RSA_SHA2_256: u32 = 2;
const RSA_SHA2_512: u32 = 4;

const BAD: &str = "ssh: no key found";
const PROTECTED: &str = "ssh: this private key is passphrase protected";
const MAGIC: &[u8] = b"openssh-key-v1\0";

/// A private key and what its public half is called.
pub struct Key {
    public: Vec<u8>,
    secret: Secret,
}

enum Secret {
    Rsa(Box<RsaKeyPair>),
    Ecdsa(Curve, EcdsaKeyPair),
    Ed25519(Ed25519KeyPair),
}

#[derive(Clone, Copy, PartialEq)]
enum Curve {
    P256,
    P384,
}

impl Curve {
    const ALL: [Self; 2] = [Self::P256, Self::P384];

    fn name(self) -> &'static str {
        match self {
            Self::P256 => "nistp256",
            Self::P384 => "nistp384",
        }
    }

    fn object(self) -> &'static [u8] {
        match self {
            Self::P256 => &[0x2a, 0x86, 0x48, 0xce, 0x3d, 3, 1, 7],
            Self::P384 => &[0x2b, 0x81, 4, 0, 0x22],
        }
    }

    /// Bytes of a number.
    fn size(self) -> usize {
        match self {
            Self::P256 => 32,
            Self::P384 => 48,
        }
    }

    fn algorithm(self) -> &'static ring::signature::EcdsaSigningAlgorithm {
        match self {
            Self::P256 => &ECDSA_P256_SHA256_FIXED_SIGNING,
            Self::P384 => &ECDSA_P384_SHA384_FIXED_SIGNING,
        }
    }
}

impl Key {
    /// Reads the text of a key file.
    ///
    /// # Errors
    /// What is wrong with it, in Go's words where it has some.
    pub fn parse(text: &str) -> Result<Self, String> {
        let (label, data) = block(text)?;
        match label {
            "OPENSSH PRIVATE KEY" => openssh(&data),
            "RSA PRIVATE KEY" => rsa(RsaKeyPair::from_der(&data)),
            "EC PRIVATE KEY" => {
                let (curve, private, public) = der::ec_private_key(&data).ok_or(BAD)?;
                let curve = Curve::ALL.into_iter().find(|known| known.object() == curve);
                let curve = curve.ok_or("ssh: unsupported curve: use P-256, P-384 or Ed25519")?;
                ecdsa(curve, private, public)
            }
            "PRIVATE KEY" => pkcs8(&data),
            "ENCRYPTED PRIVATE KEY" => Err(PROTECTED.into()),
            other => Err(format!("ssh: unsupported key type {other:?}")),
        }
    }

    /// The public key as SSH writes it: what a request to sign names.
    pub fn public(&self) -> &[u8] {
        &self.public
    }

    /// Signs as the flags ask for; `None`: it can't.
    pub fn sign(&self, data: &[u8], flags: u32) -> Option<Vec<u8>> {
        let mut signature = Writer::default();
        match &self.secret {
            Secret::Ed25519(pair) => {
                signature.string(b"ssh-ed25519");
                signature.string(pair.sign(data).as_ref());
            }
            Secret::Ecdsa(curve, pair) => {
                let signed = pair.sign(&SystemRandom::new(), data).ok()?;
                let (r, s) = signed.as_ref().split_at_checked(curve.size())?;
                let mut numbers = Writer::default();
                numbers.integer(r);
                numbers.integer(s);
                signature.string(format!("ecdsa-sha2-{}", curve.name()).as_bytes());
                signature.string(numbers.bytes());
            }
            Secret::Rsa(pair) => {
                let (name, padding) = if flags & RSA_SHA2_512 != 0 {
                    ("rsa-sha2-512", &RSA_PKCS1_SHA512)
                } else if flags & RSA_SHA2_256 != 0 {
                    ("rsa-sha2-256", &RSA_PKCS1_SHA256)
                } else {
                    return None;
                };
                let mut signed = vec![0; pair.public().modulus_len()];
                pair.sign(padding, &SystemRandom::new(), data, &mut signed).ok()?;
                signature.string(name.as_bytes());
                signature.string(&signed);
            }
        }
        Some(signature.bytes().to_vec())
    }
}

/// The first block of a PEM file: what it is, and its bytes.
fn block(text: &str) -> Result<(&str, Vec<u8>), String> {
    let (_, rest) = text.split_once("-----BEGIN ").ok_or(BAD)?;
    let (label, rest) = rest.split_once("-----").ok_or(BAD)?;
    let (body, _) = rest.split_once(&format!("-----END {label}-----")).ok_or(BAD)?;
    if body.contains("Proc-Type:") && body.contains("ENCRYPTED") {
        return Err(PROTECTED.into());
    }
    let body: String = body.chars().filter(|c| !c.is_whitespace()).collect();
    let data = base64::engine::general_purpose::STANDARD.decode(body);
    Ok((label, data.map_err(|_| BAD)?))
}

/// ssh-keygen's own form: PROTOCOL.key of OpenSSH.
fn openssh(data: &[u8]) -> Result<Key, String> {
    let data = data
        .strip_prefix(MAGIC)
        .ok_or("ssh: invalid openssh private key format")?;
    let mut file = Reader::new(data);
    let (cipher, _, _) = (file.string(), file.string(), file.string());
    if cipher != Some(b"none") {
        return Err(PROTECTED.into());
    }
    if file.number() != Some(1) {
        return Err("ssh: multi-key files are not supported".into());
    }
    file.string();
    let mut key = Reader::new(file.string().ok_or(BAD)?);
    if key.number() != key.number() {
        return Err("ssh: malformed OpenSSH key".into());
    }
    let kind = key.string().ok_or(BAD)?;
    let named = |curve: &Curve| kind == format!("ecdsa-sha2-{}", curve.name()).as_bytes();
    if let Some(curve) = Curve::ALL.into_iter().find(named) {
        key.string();
        let (public, private) = (key.string().ok_or(BAD)?, key.integer().ok_or(BAD)?);
        return ecdsa(curve, private, public);
    }
    match kind {
        b"ssh-ed25519" => {
            let (public, private) = (key.string().ok_or(BAD)?, key.string().ok_or(BAD)?);
            let seed = private.get(..32).ok_or(BAD)?;
            ed25519(Ed25519KeyPair::from_seed_and_public_key(seed, public))
        }
        b"ssh-rsa" => {
            let mut number = || key.integer().ok_or(BAD);
            let (n, e, d, q_inverse, p, q) =
                (number()?, number()?, number()?, number()?, number()?, number()?);
            let (d_p, d_q) = (remainder(d, p), remainder(d, q));
            rsa(RsaKeyPair::from_components(&KeyPairComponents {
                public_key: PublicKeyComponents { n, e },
                d,
                p,
                q,
                dP: d_p.as_slice(),
                dQ: d_q.as_slice(),
                qInv: q_inverse,
            }))
        }
        other => Err(format!(
            "ssh: unhandled key type {:?}: use an RSA, ECDSA (P-256, P-384) or Ed25519 key",
            String::from_utf8_lossy(other)
        )),
    }
}

fn pkcs8(data: &[u8]) -> Result<Key, String> {
    if let Ok(pair) = Ed25519KeyPair::from_pkcs8_maybe_unchecked(data) {
        return ed25519(Ok(pair));
    }
    for curve in Curve::ALL {
        if let Ok(pair) = EcdsaKeyPair::from_pkcs8(curve.algorithm(), data, &SystemRandom::new()) {
            return Ok(of_curve(curve, pair));
        }
    }
    rsa(RsaKeyPair::from_pkcs8(data))
}

fn ed25519(pair: Result<Ed25519KeyPair, ring::error::KeyRejected>) -> Result<Key, String> {
    let pair = pair.map_err(|reason| format!("ssh: {reason}"))?;
    let mut public = Writer::default();
    public.string(b"ssh-ed25519");
    public.string(pair.public_key().as_ref());
    Ok(Key {
        public: public.bytes().to_vec(),
        secret: Secret::Ed25519(pair),
    })
}

fn ecdsa(curve: Curve, private: &[u8], public: &[u8]) -> Result<Key, String> {
    let private = without_zeros(private);
    let missing = curve.size().checked_sub(private.len()).ok_or(BAD)?;
    let private = [vec![0; missing].as_slice(), private].concat();
    let random = SystemRandom::new();
    let pair = EcdsaKeyPair::from_private_key_and_public_key(curve.algorithm(), &private, public, &random);
    let pair = pair.map_err(|reason| format!("ssh: {reason}"))?;
    Ok(of_curve(curve, pair))
}

fn of_curve(curve: Curve, pair: EcdsaKeyPair) -> Key {
    let mut public = Writer::default();
    public.string(format!("ecdsa-sha2-{}", curve.name()).as_bytes());
    public.string(curve.name().as_bytes());
    public.string(pair.public_key().as_ref());
    Key {
        public: public.bytes().to_vec(),
        secret: Secret::Ecdsa(curve, pair),
    }
}

fn rsa(pair: Result<RsaKeyPair, ring::error::KeyRejected>) -> Result<Key, String> {
    let pair = pair.map_err(|reason| format!("ssh: {reason} (RSA keys need 2048 to 4096 bits)"))?;
    let PublicKeyComponents::<Vec<u8>> { n, e } = pair.public().into();
    let mut public = Writer::default();
    public.string(b"ssh-rsa");
    public.integer(&e);
    public.integer(&n);
    Ok(Key {
        public: public.bytes().to_vec(),
        secret: Secret::Rsa(Box::new(pair)),
    })
}

/// The remainder of `number` by `prime - 1`, big-endian: OpenSSH leaves these two of an RSA key out of its files. A bit at a time
/// is fast enough for numbers of this size.
fn remainder(number: &[u8], prime: &[u8]) -> Vec<u8> {
    // One byte more than the divisor has: the remainder is doubled before it is made smaller.
    let mut divisor = [&[0], without_zeros(prime)].concat();
    if let Some(last) = divisor.last_mut() {
        // A prime is odd.
        *last &= 0xfe;
    }
    let mut rest = vec![0u8; divisor.len()];
    for bit in number
        .iter()
        .flat_map(|byte| (0..8).rev().map(move |at| byte >> at & 1))
    {
        let mut carry = bit;
        for byte in rest.iter_mut().rev() {
            (*byte, carry) = (*byte << 1 | carry, *byte >> 7);
        }
        if rest >= divisor {
            let mut borrow = false;
            for (byte, minus) in rest.iter_mut().zip(&divisor).rev() {
                let (less, first) = byte.overflowing_sub(*minus);
                let (less, second) = less.overflowing_sub(u8::from(borrow));
                (*byte, borrow) = (less, first || second);
            }
        }
    }
    without_zeros(&rest).to_vec()
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;

    fn made(arguments: &[&str]) -> Result<Key, String> {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("key");
        let (program, arguments) = arguments.split_first().unwrap();
        let output = Command::new(program).args(arguments).arg(&path).output().unwrap();
        assert!(output.status.success(), "{output:?}");
        Key::parse(&std::fs::read_to_string(&path).unwrap())
    }

    /// Has ssh-keygen check a signature: it takes them in a frame of its own (PROTOCOL.sshsig).
    fn check(key: &Key, flags: u32, hash: &'static ring::digest::Algorithm, name: &str) {
        let text = b"what is signed";
        let mut signed = Writer::default();
        signed.string(b"test");
        signed.string(b"");
        signed.string(name.as_bytes());
        signed.string(ring::digest::digest(hash, text).as_ref());
        let signature = key.sign(&[b"SSHSIG", signed.bytes()].concat(), flags).unwrap();
        let mut frame = Writer::default();
        frame.number(1);
        frame.string(key.public());
        frame.string(b"test");
        frame.string(b"");
        frame.string(name.as_bytes());
        frame.string(&signature);
        let encode = |bytes: &[u8]| base64::engine::general_purpose::STANDARD.encode(bytes);
        let armoured = encode(&[b"SSHSIG", frame.bytes()].concat());
        let lines: Vec<&str> = armoured
            .as_bytes()
            .chunks(70)
            .map(|l| std::str::from_utf8(l).unwrap())
            .collect();
        let armoured = format!(
            "-----BEGIN SSH SIGNATURE-----\n{}\n-----END SSH SIGNATURE-----\n",
            lines.join("\n")
        );
        let dir = tempfile::tempdir().unwrap();
        let kind = Reader::new(key.public()).string().unwrap();
        let line = format!("me {} {}\n", String::from_utf8_lossy(kind), encode(key.public()));
        std::fs::write(dir.path().join("allowed"), line).unwrap();
        std::fs::write(dir.path().join("signature"), armoured).unwrap();
        std::fs::write(dir.path().join("text"), text).unwrap();
        let output = Command::new("ssh-keygen")
            .args([
                "-Y",
                "verify",
                "-f",
                "allowed",
                "-I",
                "me",
                "-n",
                "test",
                "-s",
                "signature",
            ])
            .current_dir(dir.path())
            .stdin(std::fs::File::open(dir.path().join("text")).unwrap())
            .output()
            .unwrap();
        assert!(output.status.success(), "{output:?}");
    }

    #[test]
    fn keys_of_ssh_keygen_and_openssl_sign() {
        if Command::new("ssh-keygen").arg("-?").output().is_err() {
            eprintln!("skipped: there is no ssh-keygen");
            return;
        }
        let keygen = ["ssh-keygen", "-q", "-N", ""];
        for arguments in [
            &["-t", "ed25519", "-f"][..],
            &["-t", "ecdsa", "-b", "256", "-f"],
            &["-t", "ecdsa", "-b", "384", "-f"],
            &["-t", "rsa", "-b", "2048", "-f"],
            &["-t", "ecdsa", "-m", "PEM", "-f"],
            &["-t", "rsa", "-b", "2048", "-m", "PEM", "-f"],
            &["-t", "rsa", "-b", "3072", "-m", "PKCS8", "-f"],
            &["-t", "ecdsa", "-b", "384", "-m", "PKCS8", "-f"],
        ] {
            let key = made(&[&keygen[..], arguments].concat());
            let key = key.unwrap_or_else(|error| panic!("{arguments:?}: {error}"));
            check(&key, RSA_SHA2_512, &ring::digest::SHA512, "sha512");
            check(&key, RSA_SHA2_256, &ring::digest::SHA256, "sha256");
            let is_rsa = arguments.contains(&"rsa");
            assert_eq!(key.sign(b"", 0).is_none(), is_rsa, "SHA-1 is not signed with");
        }
        let key = made(&["openssl", "genpkey", "-algorithm", "ed25519", "-out"]);
        check(&key.unwrap(), 0, &ring::digest::SHA512, "sha512");
    }

    #[test]
    fn what_is_no_key_says_so() {
        let refused = |text: &str| Key::parse(text).err().unwrap();
        assert_eq!(refused("nothing"), BAD);
        assert_eq!(
            refused("-----BEGIN PRIVATE KEY-----\n!\n-----END PRIVATE KEY-----\n"),
            BAD
        );
        assert!(refused("-----BEGIN DSA PRIVATE KEY-----\n-----END DSA PRIVATE KEY-----\n").contains("DSA"));
        assert!(refused("-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n").contains("ssh: "));
        assert_eq!(
            refused(
                "-----BEGIN RSA PRIVATE KEY-----\nProc-Type: 4,ENCRYPTED\n\nAAAA\n-----END RSA PRIVATE KEY-----"
            ),
            PROTECTED
        );
        if Command::new("ssh-keygen").arg("-?").output().is_ok() {
            let locked = made(&["ssh-keygen", "-q", "-N", "secret", "-t", "ed25519", "-f"]);
            assert_eq!(locked.err().unwrap(), PROTECTED);
            let odd = made(&["ssh-keygen", "-q", "-N", "", "-t", "ecdsa", "-b", "521", "-f"]);
            assert!(odd.err().unwrap().contains("ecdsa-sha2-nistp521"));
        }
    }

    #[test]
    fn remainders() {
        for (number, prime, rest) in [
            (1000u32, 7u32, 4u32),
            (5, 7, 5),
            (6, 7, 0),
            (123_456_789, 65537, 52501),
        ] {
            assert_eq!(number % (prime - 1), rest);
            let rest = rest.to_be_bytes();
            assert_eq!(
                remainder(&number.to_be_bytes(), &prime.to_be_bytes()),
                without_zeros(&rest)
            );
        }
    }
}
