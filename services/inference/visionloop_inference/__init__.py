"""The inference service: serves model bundles over gRPC and follows their aliases."""
