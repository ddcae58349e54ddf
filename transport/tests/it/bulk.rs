//! The bulk channel over real QUIC.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::future::BoxFuture;
use mobula_transport::{BulkBody, BulkSink, BulkSource, Endpoint, ProcessAddr, SendError};
use parking_lot::Mutex;

use crate::common::*;

/// Serves what the request asks for, in words.
pub struct Shop;

pub fn goods(n: usize) -> Vec<u8> {
    (0..n as u32).map(|i| (i.wrapping_mul(2_654_435_761) >> 13) as u8).collect()
}

impl BulkSource for Shop {
    fn open(&self, _peer: ProcessAddr, request: Bytes) -> BoxFuture<'static, Result<BulkBody, SendError>> {
        Box::pin(async move {
            let words: Vec<&str> = std::str::from_utf8(&request).unwrap().split(' ').collect();
            match words[..] {
                ["goods", n] => {
                    let bytes = Bytes::from(goods(n.parse().unwrap()));
                    let half = bytes.len() / 3;
                    Ok(BulkBody::new(vec![bytes.slice(..half), bytes.slice(half..)]))
                }
                ["short", n] => {
                    let bytes = Bytes::from(goods(n.parse().unwrap()));
                    Ok(BulkBody { total_bytes: bytes.len() as u64 + 1, chunks: vec![bytes] })
                }
                ["long", n] => {
                    let bytes = Bytes::from(goods(n.parse().unwrap()));
                    Ok(BulkBody { total_bytes: bytes.len() as u64 - 1, chunks: vec![bytes] })
                }
                ["never"] => std::future::pending().await,
                _ => Err(SendError::Refused { why: "not in stock".into() }),
            }
        })
    }
}

#[derive(Default)]
pub struct Basket {
    pub bytes: Vec<u8>,
    pub announced: Option<u64>,
    pub finished: bool,
    pub limit_bytes: Option<u64>,
}

pub struct Sink(pub Arc<Mutex<Basket>>);

impl BulkSink for Sink {
    fn begin(&mut self, total_bytes: u64) -> Result<(), SendError> {
        let mut basket = self.0.lock();
        basket.announced = Some(total_bytes);
        match basket.limit_bytes {
            Some(limit_bytes) if total_bytes > limit_bytes => {
                Err(SendError::TooLarge { size_bytes: total_bytes, limit_bytes })
            }
            _ => Ok(()),
        }
    }
    fn write(&mut self, chunk: &[u8]) -> Result<(), SendError> {
        self.0.lock().bytes.extend_from_slice(chunk);
        Ok(())
    }
    fn finish(&mut self) -> Result<(), SendError> {
        self.0.lock().finished = true;
        Ok(())
    }
}

pub async fn fetch(
    endpoint: &Endpoint,
    from: ProcessAddr,
    request: &str,
    basket: &Arc<Mutex<Basket>>,
    stall: Duration,
) -> Result<u64, SendError> {
    let request = Bytes::copy_from_slice(request.as_bytes());
    endpoint.bulk().fetch(from, request, Box::new(Sink(basket.clone())), stall).await
}

fn fetch_now(
    endpoint: &Endpoint,
    from: ProcessAddr,
    request: &str,
    basket: &Arc<Mutex<Basket>>,
) -> Result<u64, SendError> {
    block_on(fetch(endpoint, from, request, basket, LONG))
}

#[test]
fn objects_arrive_whole() {
    let (server, client) = (bind(), bind());
    server.bulk().serve(Arc::new(Shop)).unwrap();
    for n in [0, 1, 100_000, 64 << 20] {
        let basket = Arc::new(Mutex::new(Basket::default()));
        let fetched = fetch_now(&client, server.process(), &format!("goods {n}"), &basket);
        assert_eq!(fetched, Ok(n as u64));
        let basket = basket.lock();
        assert_eq!(basket.announced, Some(n as u64));
        assert!(basket.finished && basket.bytes == goods(n), "{n} bytes differ");
    }
    let moved = (64 << 20) + 100_001;
    assert_eq!(client.metrics().bulk_bytes_in, moved);
    eventually("counted", || server.metrics().bulk_bytes_out == moved);
    // In the same process the same way.
    let basket = Arc::new(Mutex::new(Basket::default()));
    assert_eq!(fetch_now(&server, server.process(), "goods 10", &basket), Ok(10));
    assert_eq!(basket.lock().bytes, goods(10));
    client.shutdown(LONG);
    server.shutdown(LONG);
}

#[test]
fn many_objects_at_once() {
    let (server, client) = (bind(), bind());
    server.bulk().serve(Arc::new(Shop)).unwrap();
    let baskets: Vec<_> = (0..20).map(|_| Arc::new(Mutex::new(Basket::default()))).collect();
    let fetched = block_on(futures::future::join_all(
        baskets.iter().map(|basket| fetch(&client, server.process(), "goods 3000000", basket, LONG)),
    ));
    assert!(fetched.into_iter().all(|fetched| fetched == Ok(3_000_000)));
    let expected = goods(3_000_000);
    assert!(baskets.iter().all(|basket| basket.lock().bytes == expected));
    client.shutdown(LONG);
    server.shutdown(LONG);
}

#[test]
fn wrong_lengths_and_refusals_are_typed() {
    let (server, client) = (bind(), bind());
    let basket = Arc::new(Mutex::new(Basket::default()));
    let fetch = |request: &str| fetch_now(&client, server.process(), request, &basket);
    assert!(matches!(fetch("goods 1"), Err(SendError::Refused { .. })), "nobody serves yet");
    server.bulk().serve(Arc::new(Shop)).unwrap();
    assert_eq!(fetch("short 1000"), Err(SendError::WrongLength { announced_bytes: 1001, received_bytes: 1000 }));
    assert!(matches!(fetch("long 1000"), Err(SendError::WrongLength { announced_bytes: 999, received_bytes: 1000 })));
    assert_eq!(fetch("elephant"), Err(SendError::Refused { why: "not in stock".into() }));
    basket.lock().limit_bytes = Some(10);
    assert_eq!(fetch("goods 1000"), Err(SendError::TooLarge { size_bytes: 1000, limit_bytes: 10 }));
    assert!(!basket.lock().finished);
    let silent = block_on(super::bulk::fetch(&client, server.process(), "never", &basket, Duration::from_millis(50)));
    assert!(matches!(silent, Err(SendError::Unreachable { .. })), "{silent:?}");
    let too_large = "x".repeat(mobula_transport::BULK_REQUEST_MAX_BYTES + 1);
    assert!(matches!(fetch(&too_large), Err(SendError::TooLarge { .. })));
    // None of it hurt the connection.
    basket.lock().limit_bytes = None;
    assert_eq!(fetch("goods 10"), Ok(10));
    client.shutdown(LONG);
    server.shutdown(LONG);
}

#[test]
fn a_vanishing_source_fails_the_fetch() {
    let (server, client) = (bind(), bind());
    server.bulk().serve(Arc::new(Shop)).unwrap();
    let basket = Arc::new(Mutex::new(Basket::default()));
    assert_eq!(fetch_now(&client, server.process(), "goods 10", &basket), Ok(10));
    let from = server.process();
    let waiting = std::thread::spawn({
        let (client, basket) = (client.clone(), basket.clone());
        move || fetch_now(&client, from, "never", &basket)
    });
    std::thread::sleep(Duration::from_millis(50));
    server.shutdown(Duration::ZERO);
    let failed = waiting.join().unwrap();
    assert!(matches!(failed, Err(SendError::Unreachable { .. } | SendError::Gone { .. })), "{failed:?}");
    client.shutdown(LONG);
}
