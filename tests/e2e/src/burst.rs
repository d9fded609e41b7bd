//! Many connections that all fire at the same moment.

use std::sync::Arc;

use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;
use tokio::sync::Barrier;

use crate::raw::{Reply, read_reply};

/// Opens one connection for each request, waits until all are open, then sends all requests
/// at once; the replies in the order of the requests.
///
/// # Panics
/// When a connection can't be opened or a reply can't be read.
pub async fn burst(port: u16, requests: Vec<String>) -> Vec<Reply> {
    let barrier = Arc::new(Barrier::new(requests.len()));
    let tasks: Vec<_> = requests
        .into_iter()
        .map(|request| {
            let barrier = barrier.clone();
            tokio::spawn(async move {
                let address = ("127.0.0.1", port);
                let mut stream = TcpStream::connect(address).await.expect("the site listens");
                barrier.wait().await;
                stream.write_all(request.as_bytes()).await.expect("the request is sent");
                read_reply(&mut stream).await
            })
        })
        .collect();
    let mut replies = Vec::with_capacity(tasks.len());
    for task in tasks {
        replies.push(task.await.expect("a reply"));
    }
    replies
}
