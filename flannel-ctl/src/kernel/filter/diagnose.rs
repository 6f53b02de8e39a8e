//! Who on this host would stop the overlay's packets; for the `check` verb.
