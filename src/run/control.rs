//! The sockets by which a running program is asked and changed.

use std::os::unix::net::UnixListener;

use crate::conf::{Conf, Mode, RunConf};
use crate::control::configuration::{self, Abilities, Configuration};
use crate::control::hostfwd::{self, HostForward};
use crate::control::json::{self, Access, Json};
use crate::control::protocol::Protocol;
use crate::control::server::{Kind, Server};
use crate::engine::{Link, Worker};
use crate::error::{StartError, system};
use crate::limits::{CONFIGURATION_CLIENTS, CONTROL_PLACES};
use crate::start::{self, Made};

/// The sockets of `--control` and `--control-ro`.
pub(super) struct ControlSockets {
    /// For pesto.
    configuration: Option<UnixListener>,
    /// One by which things may change, and one that only tells.
    json: [Option<UnixListener>; 2],
    /// slirp4netns's own.
    slirp4netns: Option<UnixListener>,
}

impl ControlSockets {
    /// Makes those that are wanted.
    ///
    /// # Errors
    /// Which one cannot be made, and why.
    pub(super) fn bind(run: &RunConf, made: &mut Made) -> Result<Self, StartError> {
        let configuration = run.conf_path.as_deref();
        let configuration = configuration
            .map(|path| start::control_socket(path, "--conf-path", made))
            .transpose()?;
        let mut bind = |wanted: &Option<_>, option| {
            wanted.as_ref().map(|wanted| start::json_socket(wanted, option, made)).transpose()
        };
        let json = [bind(&run.control, "--control")?, bind(&run.control_ro, "--control-ro")?];
        let slirp = run.slirp4netns.as_ref().and_then(|slirp| slirp.api.as_deref());
        let bind = |path| start::control_socket(path, "--api-socket", made);
        let slirp4netns = slirp.map(bind).transpose()?;
        Ok(Self { configuration, json, slirp4netns })
    }

    /// Has the loop serve them. What connections are left beside them is known then.
    ///
    /// # Errors
    /// The kernel has no room for them.
    pub(super) fn serve<L: Link>(
        self,
        conf: &Conf,
        worker: &mut Worker<L>,
    ) -> Result<(), StartError> {
        if let Some(listener) = self.configuration {
            let abilities = Abilities {
                namespace: conf.pasta.is_some(),
                interfaces: conf.kernel.device_binding,
            };
            let places = (0..CONFIGURATION_CLIENTS).map(|_| Configuration::new(abilities));
            serve(listener, configuration::KIND, places, worker)?;
        }
        if let Some(listener) = self.slirp4netns {
            let places = (0..CONFIGURATION_CLIENTS).map(|_| HostForward::default());
            serve(listener, hostfwd::KIND, places, worker)?;
        }
        let mode = match conf.link.mode {
            Mode::Pasta => "namespace",
            Mode::Stream => "stream",
            Mode::VhostUser => "vhost-user",
        };
        let program = conf.run.program(conf.link.mode);
        let (has_namespace, kernel) = (conf.pasta.is_some(), conf.kernel);
        let about = json::About { program, mode, has_namespace, kernel };
        let pace = json::Pace::default();
        for (listener, access) in self.json.into_iter().zip([Access::Changes, Access::Reads]) {
            let Some(listener) = listener else { continue };
            let places = (0..CONTROL_PLACES).map(|_| Json::new(about, access, pace.clone()));
            serve(listener, json::KIND, places, worker)?;
            worker.count_quietly();
        }
        if let Some(warning) = worker.engine_mut().warning_of_descriptors() {
            log::warn!("{warning}");
        }
        Ok(())
    }
}

/// Has the loop serve the clients that connect to `listener`.
fn serve<L: Link, P: Protocol + 'static>(
    listener: UnixListener,
    kind: Kind,
    places: impl ExactSizeIterator<Item = P>,
    worker: &mut Worker<L>,
) -> Result<(), StartError> {
    let descriptors = places.len() + 1;
    let server = Server::new(listener.into(), kind, places);
    let server = server.map_err(system("Couldn't prepare a control socket"))?;
    worker.add(Box::new(server)).map_err(system("epoll_ctl"))?;
    worker.engine_mut().keep_back(descriptors);
    Ok(())
}
