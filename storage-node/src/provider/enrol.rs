//! Joining a chain: keys, settings, registration, escrow, and the address clients find.
//!
//! Place: before [`super::worker`] starts. `holdfast provider init` writes keys and [`ProviderSettings`]; `provider run` calls
//! [`enrol`], which does nothing on the chain when everything is there already, so that it can run at every start.
//! Spec: `chain.md` §5; threats H7 (key files), N5 (keys are pinned from the chain's record).
//!
//! Three keys: the owner's (`wallet.key`, holds the money, used here and for withdrawals only), the worker's
//! (`provider/worker.key`, signs everyday messages), the network's (`net.key`, proves the QUIC endpoint, signs
//! acknowledgements, holds nothing).

use std::net::SocketAddr;
use std::path::Path;

use chain_lite::account::{Address, NetKey, ProviderId};
use chain_lite::execute::{Outcome, Output};
use chain_lite::message::Message;
use chain_lite::units::{EpochCount, TokenAmount};
use prover::{PaddedPieceSize, SectorSize};
use retrieval::NetSecret;
use serde::{Deserialize, Serialize};

use super::ProviderError;
use super::journal::replace_file;
use crate::chain::{ChainClient, ProviderView};
use crate::client::outbox::Outbox;
use crate::config::Home;
use crate::identity::{KeyError, Wallet, create_private_dir, open_or_create_net_key};

/// Name of the settings file in the provider's folder.
pub const SETTINGS_FILE: &str = "provider.json";
const WORKER_KEY: &str = "worker.key";
/// A client sends six segments at once, each a piece for each provider; the first is behind nothing.
pub const BURST_SECTORS: u64 = 5;
/// Longest settings file that is read, in bytes.
const MAX_SETTINGS_BYTES: u64 = 64 * 1024;

/// A provider's choices, written by `provider init` and read at each start.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ProviderSettings {
    /// Size of all its sectors, fixed at registration.
    pub sector_size: SectorSize,
    /// UDP address clients reach. Port 0 is replaced by a free one at the first start.
    pub listen: SocketAddr,
    /// Units per epoch for one padded GiB.
    pub price_per_gib: TokenAmount,
    /// Smallest padded piece taken. Larger keeps dust out; 128 is the least there is.
    pub min_piece: PaddedPieceSize,
    /// Padded bytes of all pieces together.
    pub capacity_bytes: u64,
    /// Free disk space that is never used.
    pub reserve_bytes: u64,
    /// Unpublished deals of one client.
    pub client_deals: usize,
    /// Their padded bytes.
    pub client_bytes: u64,
    /// Balance put up at registration: pledges and deposits come from it.
    pub deposit: TokenAmount,
    /// Escrow put up at registration: deal collateral comes from it.
    pub escrow: TokenAmount,
    /// Earliest start quoted with an empty queue.
    pub start_lead: EpochCount,
    /// Added to it for each sector in the queue.
    pub start_lead_per_sector: EpochCount,
    /// Sectors' worth of pieces that clients may be sending at once, before the queue shows them: starts are quoted for a
    /// queue that is this much longer. Too low, and large puts are refused half-way; higher lets deals begin later.
    #[serde(default)]
    pub burst_sectors: u64,
    /// A part-filled sector is closed after this.
    pub pack_wait: EpochCount,
    /// A running job holds the devnet's clock after this; see `lifecycle::Settings`.
    pub hold_after: EpochCount,
    /// Reseal damaged replicas from the unsealed copies.
    pub auto_repair: bool,
    /// Keep balance and escrow filled from the owner's account, and that from the faucet where there is one; see
    /// [`super::treasury`].
    #[serde(default)]
    pub top_up: bool,
}

impl ProviderSettings {
    /// Settings for a devnet on this machine, shared by `neighbours` providers.
    pub fn devnet(sector_size: SectorSize, neighbours: u64) -> Self {
        Self {
            sector_size,
            listen: SocketAddr::from(([127, 0, 0, 1], 0)),
            price_per_gib: TokenAmount(1_000_000_000_000_000),
            min_piece: PaddedPieceSize::MIN,
            capacity_bytes: sector_size.bytes().saturating_mul(1024),
            reserve_bytes: 64 << 20,
            client_deals: 64,
            client_bytes: sector_size.bytes().saturating_mul(32),
            deposit: TokenAmount::from_tokens(27_000_000),
            escrow: TokenAmount::from_tokens(22_000_000),
            // Each neighbour's sector takes about 40 epochs of chain time while its proofs hold the clock.
            start_lead: EpochCount(60 + 40 * neighbours),
            start_lead_per_sector: EpochCount(40 * neighbours.max(1)),
            burst_sectors: BURST_SECTORS,
            pack_wait: EpochCount(10),
            hold_after: EpochCount(10),
            auto_repair: true,
            top_up: true,
        }
    }

    /// Reads the settings of a provider's folder.
    pub fn read(dir: &Path) -> Result<Self, ProviderError> {
        let path = dir.join(SETTINGS_FILE);
        let bad = |reason: String| ProviderError::Settings {
            path: path.clone(),
            reason,
        };
        let meta = std::fs::metadata(&path).map_err(|error| match error.kind() {
            std::io::ErrorKind::NotFound => ProviderError::NotInitialised(dir.to_owned()),
            _ => bad(error.to_string()),
        })?;
        if meta.len() > MAX_SETTINGS_BYTES {
            return Err(bad("it is too long for a settings file".to_owned()));
        }
        let bytes = std::fs::read(&path).map_err(|error| bad(error.to_string()))?;
        serde_json::from_slice(&bytes).map_err(|error| bad(error.to_string()))
    }

    /// Writes them, replacing what was there.
    pub fn write(&self, dir: &Path) -> Result<(), ProviderError> {
        let bytes = serde_json::to_vec_pretty(self).expect("plain fields serialise");
        Ok(replace_file(dir, SETTINGS_FILE, &bytes)?)
    }
}

/// The keys that a running provider needs.
pub struct Keys {
    /// Signs everyday messages.
    pub worker: Wallet,
    /// Proves the endpoint.
    pub net: NetSecret,
}

/// Makes what is missing of a provider's home: folder, owner's wallet, worker's and network keys, settings.
/// Gives the owner's address. An existing wallet is kept; settings are replaced.
pub fn init(home: &Home, settings: &ProviderSettings) -> Result<Address, ProviderError> {
    let dir = home.provider_dir();
    create_private_dir(&dir).map_err(|source| ProviderError::Folder {
        path: dir.clone(),
        source,
    })?;
    let owner = match Wallet::open(&home.wallet_key(), || None) {
        Err(KeyError::Missing(_)) => Wallet::create(&home.wallet_key(), None)?,
        other => other?,
    };
    open_keys(home)?;
    settings.write(&dir)?;
    Ok(owner.address())
}

/// Opens worker and network key, making them on first use.
pub fn open_keys(home: &Home) -> Result<Keys, ProviderError> {
    let path = home.provider_dir().join(WORKER_KEY);
    let worker = match Wallet::open(&path, || None) {
        Err(KeyError::Missing(_)) => Wallet::create(&path, None)?,
        other => other?,
    };
    Ok(Keys {
        worker,
        net: open_or_create_net_key(&home.net_key())?,
    })
}

/// Makes sure that the chain knows this provider under these keys and this address.
pub async fn enrol(
    chain: &ChainClient,
    home: &Home,
    settings: &ProviderSettings,
    keys: &Keys,
    addr: SocketAddr,
) -> Result<ProviderView, ProviderError> {
    let owner = Wallet::open(&home.wallet_key(), || None)?;
    let found = chain.provider_of_owner(&owner.address()).await?;
    let view = match found {
        Some(view) => view,
        None => register(chain, home, &owner, settings, keys, addr).await?,
    };
    check_identity(&view, settings, keys, chain.head().await?.epoch)?;
    let addrs = vec![addr.to_string()];
    if view.provider.addrs != addrs {
        let provider = view.provider.id;
        let message = Message::SetAddrs { provider, addrs };
        chain
            .execute(keys.worker.signing_key(), vec![message])
            .await?;
        tracing::info!(%provider, %addr, "the chain has the new address");
    }
    Ok(view)
}

fn check_identity(
    view: &ProviderView,
    settings: &ProviderSettings,
    keys: &Keys,
    now: chain_lite::units::Epoch,
) -> Result<(), ProviderError> {
    let provider = &view.provider;
    let (worker, net_key) = provider.keys(now);
    let differs = |what: &'static str| ProviderError::OtherIdentity {
        provider: provider.id,
        what,
    };
    if worker != keys.worker.address() {
        return Err(differs("worker key"));
    }
    if net_key != net_key_of(keys) {
        return Err(differs("network key"));
    }
    if provider.sector_size != settings.sector_size {
        return Err(differs("sector size"));
    }
    Ok(())
}

fn net_key_of(keys: &Keys) -> NetKey {
    NetKey(*keys.net.peer_id().as_bytes())
}

/// The owner's key signs: the wallet is locked, and what a command or a registration before has left comes first.
async fn register(
    chain: &ChainClient,
    home: &Home,
    owner: &Wallet,
    settings: &ProviderSettings,
    keys: &Keys,
    addr: SocketAddr,
) -> Result<ProviderView, ProviderError> {
    if !chain.params().sector_sizes.contains(&settings.sector_size) {
        return Err(ProviderError::SectorSize(settings.sector_size));
    }
    let address = owner.address();
    let outbox = Outbox::open(home, &chain.chain_id())?;
    let open = outbox.follow_from(home, chain, &address).await?;
    if let Some(view) = chain.provider_of_owner(&address).await? {
        return Ok(view);
    }
    fund(chain, owner, settings).await?;
    let messages = vec![
        Message::RegisterProvider {
            worker: keys.worker.address(),
            net_key: net_key_of(keys),
            addrs: vec![addr.to_string()],
            sector_size: settings.sector_size,
            deposit: settings.deposit,
        },
        Message::MarketDeposit {
            to: address,
            amount: settings.escrow,
        },
    ];
    let key = owner.signing_key();
    let receipt = outbox.pay(chain, key, open, messages).await?;
    let id = match &receipt.outcome {
        Outcome::Applied { outputs } => outputs.iter().find_map(|output| match output {
            Output::Registered { provider } => Some(*provider),
            _ => None,
        }),
        _ => None,
    };
    let id: ProviderId = id.ok_or(ProviderError::NotRegistered)?;
    chain
        .provider(id)
        .await?
        .ok_or(ProviderError::NotRegistered)
}

/// Enough money to register; on a devnet the faucet gives what is missing.
async fn fund(
    chain: &ChainClient,
    owner: &Wallet,
    settings: &ProviderSettings,
) -> Result<(), ProviderError> {
    let needed = TokenAmount(settings.deposit.0.saturating_add(settings.escrow.0));
    let quote = chain.quote(settings.sector_size.bytes()).await?;
    if settings.deposit < quote.precommit_deposit {
        return Err(ProviderError::DepositTooSmall {
            has: settings.deposit,
            least: quote.precommit_deposit,
        });
    }
    let free = chain.account(&owner.address()).await?.free;
    if free >= needed {
        return Ok(());
    }
    if !chain.info().faucet {
        return Err(ProviderError::Funds {
            owner: owner.address(),
            has: free,
            needed,
        });
    }
    let mut missing = needed.0 - free.0;
    // The faucet gives so much at once.
    let portion = crate::rpc::FAUCET_LIMIT.0;
    let mut heads = chain.subscribe_heads();
    while missing > 0 {
        let part = missing.min(portion);
        chain.faucet(&owner.address(), TokenAmount(part)).await?;
        missing -= part;
    }
    while chain.account(&owner.address()).await?.free < needed {
        let _ = tokio::time::timeout(std::time::Duration::from_secs(2), heads.changed()).await;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::client::ClientError;
    use crate::provider::prover::tests::filecoins;
    use crate::provider::prover::{Workshop, WorkshopError};
    use crate::provider::{ProviderConfig, start};
    use crate::rpc::tests::{address, bed, bed_with_keys, key};

    /// It stops before it is registered, and so before any deposit.
    #[tokio::test(flavor = "multi_thread")]
    async fn tm_s3_a_provider_whose_keys_the_chain_does_not_name_does_not_start() {
        let bed = bed_with_keys(filecoins());
        let server = bed.serve(0, None).await;
        let dir = tempfile::tempdir().expect("a folder");
        let home = Home::new(dir.path());
        let settings = ProviderSettings::devnet(SectorSize::Kib2, 1);
        let owner = init(&home, &settings).expect("makes");
        let chain = ChainClient::connect(&server.url()).await.expect("connects");
        let amount = TokenAmount::from_tokens(60_000_000);
        let funds = Message::Transfer { to: owner, amount };
        chain.execute(&key(1), vec![funds]).await.expect("included");
        let shop = Workshop::with_limits(&dir.path().join("params"), 2, 1 << 40);
        let started = start(ProviderConfig {
            home,
            chain_url: server.url(),
            shop: Arc::new(shop.expect("a workshop")),
            progress: Arc::new(::prover::NoProgress),
        })
        .await;
        let error = started.err().expect("it does not start");
        assert!(
            matches!(
                error,
                ProviderError::Workshop(WorkshopError::ForeignKey { .. })
            ),
            "{error}"
        );
        assert!(chain.providers().await.expect("answers").is_empty());
        server.stop().await;
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn tm_h1_registration_comes_after_what_a_command_of_the_owner_has_left() {
        let bed = bed();
        let server = bed.serve(0, None).await;
        let dir = tempfile::tempdir().expect("a folder");
        let home = Home::new(dir.path());
        let settings = ProviderSettings::devnet(SectorSize::Kib2, 1);
        let owner = init(&home, &settings).expect("makes");
        let keys = open_keys(&home).expect("opens");
        let chain = ChainClient::connect(&server.url()).await.expect("connects");
        let transfer = |to, amount| vec![Message::Transfer { to, amount }];
        let funds = transfer(owner, TokenAmount::from_tokens(60_000_000));
        chain.execute(&key(1), funds).await.expect("included");

        // A command of the owner signed and was killed before it sent.
        let outbox = Outbox::open(&home, &chain.chain_id()).expect("free");
        let wallet = Wallet::open(&home.wallet_key(), || None).expect("opens");
        let left = chain.tx(owner, 0, 1 << 20, transfer(address(5), TokenAmount(7)));
        let left = chain_lite::message::sign(left, wallet.signing_key());
        outbox.add(&left).expect("keeps");
        let addr = SocketAddr::from(([127, 0, 0, 1], 9));
        // While one runs, nothing else is signed.
        let busy = enrol(&chain, &home, &settings, &keys, addr).await;
        let is_busy = |error| matches!(error, ProviderError::Wallet(ClientError::Busy(_)));
        assert!(busy.is_err_and(is_busy));
        drop(outbox);
        let view = enrol(&chain, &home, &settings, &keys, addr).await;
        assert_eq!(view.expect("registers").provider.owner, owner);
        let account = |of| {
            let chain = &chain;
            async move { chain.account(&of).await.expect("answers") }
        };
        assert_eq!(account(address(5)).await.free, TokenAmount(7));
        assert_eq!(account(owner).await.nonce, 2);
        server.stop().await;
    }
}
