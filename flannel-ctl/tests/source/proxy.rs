//! A network between node and server that can be taken away.

use std::net::SocketAddr;

use tokio::{
    io::copy_bidirectional,
    net::{TcpListener, TcpStream},
    sync::watch,
};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Weather {
    Fine,
    /// Nothing passes, nobody is told.
    Blackhole,
    /// Connections are closed, new ones too.
    Cut,
}

/// Forwards to one port of the loopback.
pub(crate) struct Proxy {
    pub url: String,
    weather: watch::Sender<Weather>,
}

impl Proxy {
    pub(crate) async fn to(port: u16) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let (weather, seen) = watch::channel(Weather::Fine);
        tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                tokio::spawn(carry(client, SocketAddr::from(([127, 0, 0, 1], port)), seen.clone()));
            }
        });
        Self { url, weather }
    }

    pub(crate) fn set(&self, weather: Weather) {
        self.weather.send_replace(weather);
    }
}

async fn carry(mut client: TcpStream, to: SocketAddr, mut weather: watch::Receiver<Weather>) {
    let mut server = None;
    loop {
        let now = *weather.borrow_and_update();
        match now {
            Weather::Cut => return,
            Weather::Blackhole => {
                if weather.changed().await.is_err() {
                    return;
                }
                // What was blackholed while it was set up stays dead, as after lost packets.
                if server.is_none() {
                    return;
                }
            }
            Weather::Fine => {
                let mut connected = match server.take() {
                    Some(server) => server,
                    None => match TcpStream::connect(to).await {
                        Ok(server) => server,
                        Err(_) => return,
                    },
                };
                tokio::select! {
                    _ = copy_bidirectional(&mut client, &mut connected) => return,
                    changed = weather.changed() => if changed.is_err() { return },
                }
                server = Some(connected);
            }
        }
    }
}
