//! An SSH agent with keys of its own, for `--ssh id=key`: lists them and signs with them, and does nothing else. The keys stay in
//! this process; what the build gets is signatures. The protocol is draft-miller-ssh-agent.

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

use super::keys::Key;
use super::wire::{Reader, Writer};

const FAILURE: u8 = 5;
const REQUEST_IDENTITIES: u8 = 11;
const IDENTITIES_ANSWER: u8 = 12;
const SIGN_REQUEST: u8 = 13;
const SIGN_RESPONSE: u8 = 14;
/// Bytes of a message, as OpenSSH's agent limits them.
const MESSAGE: usize = 256 << 10;

/// The keys of one `--ssh`.
#[derive(Default)]
pub struct Keyring {
    keys: Vec<Key>,
}

impl Keyring {
    /// An agent with these keys.
    pub fn new(keys: Vec<Key>) -> Self {
        Self { keys }
    }

    /// Answers a connection until it ends, or says what no agent would be asked.
    pub async fn serve(&self, mut stream: impl AsyncRead + AsyncWrite + Unpin) -> std::io::Result<()> {
        loop {
            let length = match stream.read_u32().await {
                Ok(length) => usize::try_from(length).unwrap_or(usize::MAX),
                Err(error) if error.kind() == std::io::ErrorKind::UnexpectedEof => return Ok(()),
                Err(error) => return Err(error),
            };
            if !(1..=MESSAGE).contains(&length) {
                return Err(std::io::ErrorKind::InvalidData.into());
            }
            let mut message = vec![0; length];
            stream.read_exact(&mut message).await?;
            let mut answer = Writer::default();
            answer.string(&self.answer(&message));
            stream.write_all(answer.bytes()).await?;
        }
    }

    /// The answer to one message. What is not understood, or not ours to sign, is a failure to the asker and nothing else.
    fn answer(&self, message: &[u8]) -> Vec<u8> {
        let mut request = Reader::new(message);
        let answered = match request.byte() {
            Some(REQUEST_IDENTITIES) => Some(self.identities()),
            Some(SIGN_REQUEST) => self.sign(&mut request),
            _ => None,
        };
        answered.unwrap_or_else(|| vec![FAILURE])
    }

    fn identities(&self) -> Vec<u8> {
        let mut answer = Writer::default();
        answer.byte(IDENTITIES_ANSWER);
        answer.number(u32::try_from(self.keys.len()).unwrap_or_default());
        for key in &self.keys {
            answer.string(key.public());
            answer.string(b"");
        }
        answer.bytes().to_vec()
    }

    fn sign(&self, request: &mut Reader<'_>) -> Option<Vec<u8>> {
        let (public, data, flags) = (request.string()?, request.string()?, request.number()?);
        let key = self.keys.iter().find(|key| key.public() == public)?;
        let mut answer = Writer::default();
        answer.byte(SIGN_RESPONSE);
        answer.string(&key.sign(data, flags)?);
        Some(answer.bytes().to_vec())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn nonsense_ends_the_connection_and_unknown_requests_fail() {
        let keyring = Keyring::default();
        let (mut ours, theirs) = tokio::io::duplex(64);
        let served = async { keyring.serve(theirs).await };
        let asked = async {
            // An extension that is not ours, then the keys, of which there are none.
            ours.write_all(&[0, 0, 0, 1, 27, 0, 0, 0, 1, 11]).await.unwrap();
            let mut answer = [0; 14];
            ours.read_exact(&mut answer).await.unwrap();
            assert_eq!(answer, [0, 0, 0, 1, 5, 0, 0, 0, 5, 12, 0, 0, 0, 0]);
            ours.write_all(&u32::MAX.to_be_bytes()).await.unwrap();
            assert_eq!(ours.read(&mut answer).await.unwrap(), 0, "it hangs up");
        };
        let (ended, ()) = tokio::join!(served, asked);
        assert_eq!(ended.unwrap_err().kind(), std::io::ErrorKind::InvalidData);
    }

    #[test]
    fn keys_that_are_not_here_do_not_sign() {
        let mut request = Writer::default();
        request.byte(SIGN_REQUEST);
        request.string(b"a key");
        request.string(b"data");
        request.number(0);
        assert_eq!(Keyring::default().answer(request.bytes()), [FAILURE]);
        for length in 0..request.bytes().len() {
            assert_eq!(Keyring::default().answer(&request.bytes()[..length]), [FAILURE]);
        }
    }
}
