//! The client against a real devnet: JSON-RPC, QUIC, providers that recompute both roots and publish; test sectors of 2 KiB.
//!
//! Sealing goes on in the background and is not waited for: this is about rung 1, *received*, and about reading back.
//! The proving keys of the 2 KiB circuits are made on first use and shared with the other tests (`HOLDFAST_PARAMS`).

use std::path::Path;
use std::sync::Arc;

use prover::{NoProgress, SectorSize};
use storage_node::client::get::{GetRequest, Target, get};
use storage_node::client::health::{State, health};
use storage_node::client::live::{LiveClient, connect};
use storage_node::client::put::{PutRequest, Stored, put};
use storage_node::client::{ClientError, catalog};
use storage_node::config::{Config, Home};
use storage_node::devnet::{Devnet, DevnetConfig};
use storage_node::identity::Wallet;
use storage_node::object::erasure::Scheme;

async fn client(home: &Home, chain_url: &str, at: &Path) -> Arc<LiveClient> {
    let wallet = Wallet::open(&home.wallet_key(), || None).expect("the devnet's wallet");
    let client = connect(chain_url, wallet, Home::new(at)).await;
    Arc::new(client.expect("the chain answers"))
}

async fn store(client: &Arc<LiveClient>, file: &Path) -> Result<Stored, ClientError> {
    let request = PutRequest {
        source: file.to_owned(),
        name: None,
        scheme: Scheme::new(2, 2).expect("legal"),
        duration: None,
        max_price_per_gib: None,
        again: false,
    };
    put(
        Arc::clone(client),
        request,
        Arc::new(|event| eprintln!("{event:?}")),
    )
    .await
}

async fn read(client: &Arc<LiveClient>, id: &str, to: &Path) -> Result<Vec<u8>, ClientError> {
    let request = GetRequest {
        object: id.to_owned(),
        range: None,
    };
    let target = Target::File {
        path: to.to_owned(),
        force: true,
    };
    get(Arc::clone(client), request, target, Arc::new(|_| ())).await?;
    Ok(std::fs::read(to).expect("written"))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_is_stored_found_by_its_key_alone_and_read_with_m_providers_stopped() {
    let dir = tempfile::tempdir().expect("a folder");
    let home = Home::new(dir.path().join("net"));
    let config = Config::resolve(None, None, |name| std::env::var_os(name)).expect("a platform");
    let settings = DevnetConfig {
        providers: 4,
        sector_size: SectorSize::Kib2,
        epoch_ms: 100,
        rpc_port: 0,
        auto_repair: true,
    };
    let mut devnet = Devnet::start(&home, settings, &config.params_dir, Arc::new(NoProgress))
        .await
        .expect("starts");
    let url = devnet.chain_url();
    let here = client(&home, &url, &dir.path().join("here")).await;

    let file = dir.path().join("sample");
    let plain: Vec<u8> = (0..1500u32).map(|i| (i * 7 % 251) as u8).collect();
    std::fs::write(&file, &plain).expect("writes");
    let stored = store(&here, &file).await.expect("stores");
    assert_eq!(
        (stored.segments, stored.deals, stored.already),
        (1, 8, false)
    );
    let again = store(&here, &file).await.expect("finds");
    assert!(again.already && again.object == stored.object);

    // A home with nothing but the key: the chain and any k providers give everything back.
    for index in [0, 2] {
        devnet.stop_provider(index).await.expect("stops");
    }
    let elsewhere = client(&home, &url, &dir.path().join("elsewhere")).await;
    let id = stored.object.to_string();
    let bytes = read(&elsewhere, &id, &dir.path().join("back"))
        .await
        .expect("two are left");
    assert_eq!(bytes, plain);

    let entry = catalog::find(&elsewhere, &id[..8]).await.expect("listed");
    let now = health(&elsewhere.chain, &entry, Some(1))
        .await
        .expect("judges");
    assert_eq!(
        (now.state, now.weakest),
        (State::Healthy, 4),
        "deals are open, providers only paused"
    );

    devnet.stop_provider(1).await.expect("stops");
    let error = read(&elsewhere, &id, &dir.path().join("lost"))
        .await
        .expect_err("one is left");
    assert!(matches!(error, ClientError::Lost { .. }), "{error}");
    assert!(!dir.path().join("lost").exists());

    here.network.close().await;
    elsewhere.network.close().await;
    devnet.shutdown().await.expect("stops in order");
}
